// Package linelog writes logs of which each line belongs to one request, such
// as the access log: lines are gathered in memory and written by one goroutine,
// off the request path. When the output can't keep up, lines are dropped and
// counted rather than requests delayed.
//
// What can't be written, because the disk is full for one, is tried again, from
// the byte on that wasn't taken: no line is ever written in part. What fits into
// memory meanwhile isn't lost.
//
// What a line says is its caller's matter. Whoever calls Run owns the goroutine.
package linelog

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	flushEvery  = 200 * time.Millisecond
	reopenEvery = time.Second
	watchEvery  = time.Second
	quietFor    = 10              // watches without a dropped line after which all is well again
	leaveAfter  = 2 * time.Second // at the end, for an output that nobody reads
	wakeAt      = 32 << 10        // bytes in a shard that wake the writer early
	dropAt      = 1 << 20         // bytes in a shard from which lines are dropped
	shards      = 16
)

// Writer is a log that is written while Run runs.
type Writer struct {
	name, output string
	log          logrus.FieldLogger
	dropped      atomic.Uint64
	list         []shard
	wake         chan struct{}
	reopen       chan struct{}
	follow       atomic.Bool
}

type shard struct {
	mu  sync.Mutex // guards buf
	buf []byte
	_   [64]byte
}

// New returns a log. The name is that of its block in the configuration; the
// output is stdout, stderr, or a path: of a file or of a named pipe.
func New(name, output string, log logrus.FieldLogger) *Writer {
	return &Writer{name: name, output: output, log: log, list: make([]shard, shards), wake: make(chan struct{}, 1), reopen: make(chan struct{}, 1)}
}

// Dropped is how many lines the output was too slow for, or failed for.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Reopen makes Run open the file again, for log rotation. What was appended
// before goes into the old one.
func (w *Writer) Reopen() {
	select {
	case w.reopen <- struct{}{}:
	default:
	}
}

// Follow makes Run look whether the file still has its name, each second: after that
// it opens it again. Another process is told of a rotation, and this one isn't.
func (w *Writer) Follow() { w.follow.Store(true) }

// Open opens the output, so that a bad path is known before Run.
func (w *Writer) Open() (io.WriteCloser, error) {
	switch w.output {
	case "stdout":
		return keepOpen{os.Stdout}, nil
	case "stderr":
		return keepOpen{os.Stderr}, nil
	}
	how := os.O_WRONLY | os.O_APPEND | os.O_CREATE
	if info, err := os.Stat(w.output); err == nil && info.Mode().Type() == fs.ModeNamedPipe {
		how = os.O_RDWR // with a reader of its own, opening it waits for nobody, and who reads may come and go (fifo(7))
	}
	f, err := os.OpenFile(w.output, how, 0o640)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	return f, nil
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// Run writes lines to out until done is closed, then what is left: for two
// seconds at most, since nobody may be reading. It says in the log when lines
// are dropped, and when they no longer are.
func (w *Writer) Run(done <-chan struct{}, out io.WriteCloser) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s := sink{w: w, out: out}
		s.run(done)
	}()
	w.watch(done)
	leave := time.NewTimer(leaveAfter)
	defer leave.Stop()
	select {
	case <-ended:
	case <-leave.C: // stuck in a write, which nothing but the process's end interrupts
		w.log.Warnf("nobody reads the %s: its last lines are lost", w.name)
	}
}

// watch tells of dropped lines, once for as long as they are.
func (w *Writer) watch(done <-chan struct{}) {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	last, from, still := w.Dropped(), uint64(0), 0
	dropping := false
	for {
		select {
		case <-done:
			return
		case <-t.C:
		}
		n := w.Dropped()
		switch {
		case n != last && !dropping:
			dropping, from = true, last
			w.log.Warnf("lines of the %s are dropped: its output is too slow, or fails", w.name)
		case n == last && dropping:
			if still++; still == quietFor {
				dropping = false
				w.log.WithField("dropped", n-from).Infof("no line of the %s is dropped any more", w.name)
			}
		}
		if n != last {
			last, still = n, 0
		}
	}
}

// Append adds the line that line appends to what it is given, its newline
// included. The number spreads lines over locks.
func (w *Writer) Append(number uint32, line func([]byte) []byte) {
	s := &w.list[number%shards]
	s.mu.Lock()
	if len(s.buf) > dropAt {
		s.mu.Unlock()
		w.dropped.Add(1)
		return
	}
	before := len(s.buf)
	s.buf = line(s.buf)
	early := before < wakeAt && len(s.buf) >= wakeAt
	s.mu.Unlock()
	if early {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// sink is the writing end, of one goroutine.
type sink struct {
	w       *Writer
	out     io.WriteCloser
	buf     []byte // taken from a shard
	rest    []byte // the end of buf that isn't written yet
	failing bool
	reopen  bool // it is to be opened again, and couldn't be yet
	tried   time.Time
}

func (s *sink) run(done <-chan struct{}) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-done:
			s.flush()
			s.lose()
			_ = s.out.Close() // nobody is left to tell
			return
		case <-s.w.reopen:
			s.again(true)
		case <-s.w.wake:
		case <-t.C:
			if time.Since(s.tried) >= reopenEvery && (s.reopen || s.moved()) {
				s.again(false)
			}
		}
		s.flush()
	}
}

// flush writes what there is, as far as the output takes it. What it doesn't
// take stays, in the shards' bounds.
func (s *sink) flush() {
	if !s.drain() {
		return
	}
	for i := range s.w.list {
		h := &s.w.list[i]
		h.mu.Lock()
		s.buf, h.buf = h.buf, s.buf[:0]
		h.mu.Unlock()
		s.rest = s.buf
		if !s.drain() {
			return
		}
	}
}

func (s *sink) drain() bool {
	for len(s.rest) > 0 {
		n, err := s.out.Write(s.rest)
		s.rest = s.rest[n:]
		if err != nil {
			if !s.failing {
				s.failing = true
				s.w.log.WithError(err).Errorf("the %s can't be written; lines are kept in memory, as far as they fit", s.w.name)
			}
			return false
		}
		if s.failing {
			s.failing = false
			s.w.log.Infof("the %s can be written again", s.w.name)
		}
	}
	return true
}

// moved reports whether a file that is followed has lost its name.
func (s *sink) moved() bool {
	f, ok := s.out.(*os.File)
	if !ok || !s.w.follow.Load() {
		return false
	}
	s.tried = time.Now()
	have, err := f.Stat()
	if err != nil || !have.Mode().IsRegular() {
		return false
	}
	now, err := os.Stat(s.w.output)
	return err != nil || !os.SameFile(have, now)
}

// again opens the output once more. Without success the old file goes on, and it
// is tried until it works.
func (s *sink) again(asked bool) {
	s.tried = time.Now()
	next, err := s.w.Open()
	if err != nil {
		if asked || !s.reopen {
			s.w.log.WithError(err).Errorf("the %s can't be opened again; the old file goes on until it can", s.w.name)
		}
		s.reopen = true
		return
	}
	if s.reopen {
		s.w.log.Infof("the %s could be opened again", s.w.name)
	}
	s.reopen = false
	s.flush() // what came before belongs to the old file
	if n := len(s.buf) - len(s.rest); n > 0 && len(s.rest) > 0 && s.buf[n-1] != '\n' {
		// The old file has the beginning of a line. The new one won't have its end.
		end := bytes.IndexByte(s.rest, '\n') + 1
		s.rest = s.rest[end:]
		s.w.dropped.Add(1)
	}
	_ = s.out.Close() // everything that it takes is written
	s.out = next
}

// lose counts what is never going to be written.
func (s *sink) lose() {
	n := bytes.Count(s.rest, []byte{'\n'})
	for i := range s.w.list {
		h := &s.w.list[i]
		h.mu.Lock()
		n += bytes.Count(h.buf, []byte{'\n'})
		h.mu.Unlock()
	}
	if n > 0 {
		s.w.dropped.Add(uint64(n))
		s.w.log.WithField("dropped", n).Warnf("the last lines of the %s are lost", s.w.name)
	}
}
