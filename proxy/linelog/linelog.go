// Package linelog writes logs of which each line belongs to one request, such
// as the access log: lines are gathered in memory and written by one goroutine,
// off the request path. When the output can't keep up, lines are dropped and
// counted rather than requests delayed.
//
// What a line says is its caller's matter. Whoever calls Run owns the goroutine.
package linelog

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	flushEvery = 200 * time.Millisecond
	wakeAt     = 32 << 10 // bytes in a shard that wake the writer early
	dropAt     = 1 << 20  // bytes in a shard from which lines are dropped
	shards     = 16
)

// Writer is a log that is written while Run runs.
type Writer struct {
	name, output string
	log          logrus.FieldLogger
	dropped      atomic.Uint64
	list         []shard
	wake         chan struct{}
	reopen       chan struct{}
}

type shard struct {
	mu  sync.Mutex // guards buf
	buf []byte
	_   [64]byte
}

// New returns a log. The name is that of its block in the configuration; the
// output is stdout, stderr, or a file's path.
func New(name, output string, log logrus.FieldLogger) *Writer {
	return &Writer{name: name, output: output, log: log, list: make([]shard, shards), wake: make(chan struct{}, 1), reopen: make(chan struct{}, 1)}
}

// Dropped is how many lines the output was too slow for.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Reopen makes Run open the file again, for log rotation.
func (w *Writer) Reopen() {
	select {
	case w.reopen <- struct{}{}:
	default:
	}
}

// Open opens the output, so that a bad path is known before Run.
func (w *Writer) Open() (io.WriteCloser, error) {
	switch w.output {
	case "stdout":
		return keepOpen{os.Stdout}, nil
	case "stderr":
		return keepOpen{os.Stderr}, nil
	}
	f, err := os.OpenFile(w.output, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	return f, nil
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// Run writes lines to out until done is closed, then what is left.
func (w *Writer) Run(done <-chan struct{}, out io.WriteCloser) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	var spare []byte
	for {
		select {
		case <-done:
			w.flush(out, spare)
			_ = out.Close() // nobody is left to tell
			return
		case <-w.reopen:
			next, err := w.Open()
			if err != nil {
				w.log.WithError(err).Errorf("the %s can't be opened again; the old file goes on", w.name)
				break
			}
			spare = w.flush(out, spare) // what came before belongs to the old file
			_ = out.Close()             // everything is written
			out = next
		case <-w.wake:
		case <-t.C:
		}
		spare = w.flush(out, spare)
	}
}

func (w *Writer) flush(out io.Writer, spare []byte) []byte {
	for i := range w.list {
		s := &w.list[i]
		s.mu.Lock()
		full := s.buf
		s.buf = spare[:0]
		s.mu.Unlock()
		if len(full) > 0 {
			if _, err := out.Write(full); err != nil {
				w.dropped.Add(uint64(bytes.Count(full, []byte{'\n'})))
			}
		}
		spare = full
	}
	return spare
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
