package h3

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/net/ipv4"
)

// socket is the UDP socket of a port as quic-go sees it. Another process may
// share it: all of them write to it, one reads it, and passes on what is the
// others'. As long as nothing of that is so, route is nil, and packets are read
// and written as on the bare socket, in batches.
type socket struct {
	*net.UDPConn
	batch *ipv4.PacketConn
	route atomic.Pointer[route]

	// Of the goroutine that reads.
	reader  reader
	current *link // whose messages are read instead of the socket

	mu     sync.Mutex // guards what follows; route is made of it
	held   bool       // nothing is read
	mute   bool       // who is new goes unheard
	heir   *link      // to the process that comes after
	taken  bool       // it has the socket
	before []*link    // to the processes before

	closing bool
	stop    chan struct{} // closed with closing
	begin   sync.Once
	done    sync.WaitGroup // the goroutines that wait for other processes
}

// route is how packets are read; it isn't changed any more.
type route struct {
	held   bool
	mute   bool
	heir   *link
	before []*link
	over   chan struct{} // closed when another one is in place
}

// The ways of quic-go to use a socket that is no bare one as fast.
var _ interface {
	quic.OOBCapablePacketConn
	ReadBatch(ms []ipv4.Message, flags int) (int, error)
} = (*socket)(nil)

// takeWait bounds how long a process may take to let go of the socket. One that
// doesn't answer doesn't read either.
const takeWait = 3 * time.Second

// newSocket returns a socket that isn't read until start.
func newSocket(c *net.UDPConn, before []*link, s *Secrets) *socket {
	k := &socket{
		UDPConn: c, batch: ipv4.NewPacketConn(c), before: before, held: true,
		reader: reader{ids: newIDs(s)}, stop: make(chan struct{}),
	}
	k.publish()
	return k
}

// publish puts what has changed in force, and wakes the reader up for it. s.mu
// is held, or nobody else knows s.
func (s *socket) publish() {
	var r *route
	if s.held || s.mute || s.taken || len(s.before) > 0 {
		r = &route{held: s.held, mute: s.mute, before: slices.Clone(s.before), over: make(chan struct{})}
		if s.taken {
			r.heir = s.heir
		}
	}
	if was := s.route.Swap(r); was != nil {
		close(was.over)
	}
	if !s.closing {
		_ = s.UDPConn.SetReadDeadline(time.Unix(1, 0)) // fails when it is closed
	}
}

// woken reports whether the reader goes on after an error, which was then only
// to make it look.
func (s *socket) woken(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		_ = s.UDPConn.SetReadDeadline(time.Time{}) // fails when it is closed
	}
	return !s.closing
}

// ReadBatch is how quic-go reads, from one goroutine. It returns one packet at
// least, or an error.
func (s *socket) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for {
		r := s.route.Load()
		var n int
		var err error
		switch {
		case r == nil:
			s.current = nil
			n, err = s.batch.ReadBatch(ms, flags)
		case r.held:
			err = s.rest(r)
		case r.heir != nil:
			n, err = s.readHeir(r, ms)
		default:
			s.current = nil
			n, err = s.batch.ReadBatch(ms, flags)
			if err == nil {
				n = s.sift(r, ms[:n])
			}
		}
		if err != nil && !s.woken(err) {
			return 0, err
		}
		if err == nil && n > 0 {
			return n, nil
		}
	}
}

// rest waits until there is something else to do.
func (s *socket) rest(r *route) error {
	select {
	case <-r.over:
		return nil
	case <-s.stop:
		return os.ErrDeadlineExceeded
	}
}

// readHeir reads what the process that has the socket passes on.
func (s *socket) readHeir(r *route, ms []ipv4.Message) (int, error) {
	if s.current != r.heir {
		s.current = r.heir
		s.current.answer(s.reader.generation) // from here on the socket isn't read
	}
	kind, err := s.current.read(&ms[0])
	switch {
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		// It has ended, or the socket is ours again. In the first case the socket
		// stays alone: whether another process reads it is for the app to know.
		return 0, s.rest(r)
	case err != nil:
		return 0, err
	case kind == linkPacket:
		return 1, nil
	case kind == linkTake:
		s.current.answer(s.reader.generation)
	}
	return 0, nil
}

// sift passes on what is for the processes before, drops what isn't to be heard,
// and moves the rest to the front.
func (s *socket) sift(r *route, ms []ipv4.Message) (kept int) {
	for i := range ms {
		m := &ms[i]
		id, long := destination(m.Buffers[0][:m.N])
		generation, ok := s.reader.of(id)
		if to := r.owner(generation); ok && generation != s.reader.generation && to != nil {
			to.pass(m)
			continue
		}
		if r.mute && long && (!ok || generation != s.reader.generation) {
			continue
		}
		if i != kept {
			// The bytes and not the slices: quic-go knows whose buffers they are.
			to := &ms[kept]
			to.N = copy(to.Buffers[0], m.Buffers[0][:m.N])
			to.NN = copy(to.OOB, m.OOB[:m.NN])
			to.Addr, to.Flags = m.Addr, m.Flags
		}
		kept++
	}
	return kept
}

func (r *route) owner(generation uint32) *link {
	for _, l := range r.before {
		if l.generation == generation {
			return l
		}
	}
	return nil
}

// start takes the socket over from the processes before, and lets it be read.
func (s *socket) start(log logrus.FieldLogger) { s.begin.Do(func() { s.takeOver(log) }) }

func (s *socket) takeOver(log logrus.FieldLogger) {
	s.mu.Lock()
	before := s.before
	s.mu.Unlock()
	errs := make([]error, len(before))
	var asked sync.WaitGroup
	for i, l := range before {
		asked.Go(func() { errs[i] = l.take(takeWait) })
	}
	asked.Wait()
	var alive []*link
	for i, l := range before {
		if errs[i] == nil {
			alive = append(alive, l)
			continue
		}
		_ = l.conn.Close() // nothing has been passed
		if errors.Is(errs[i], os.ErrDeadlineExceeded) {
			log.WithField("address", s.LocalAddr()).Warn("a process before doesn't answer: its QUIC connections are lost")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		alive = nil
	}
	s.before, s.held = alive, false
	s.publish()
	for _, l := range alive {
		s.done.Go(func() { s.watch(l, log) }) // ends with the link
	}
}

// watch forgets a process before when it has ended.
func (s *socket) watch(l *link, log logrus.FieldLogger) {
	l.wait()
	s.mu.Lock()
	s.before = slices.DeleteFunc(slices.Clone(s.before), func(x *link) bool { return x == l })
	s.publish()
	s.mu.Unlock()
	_ = l.conn.Close() // what was passed and not read is of no use
	if n := l.lost.Load(); n > 0 {
		log.WithFields(logrus.Fields{"address": s.LocalAddr(), "packets": n}).
			Debug("packets for a process before were lost: it didn't read them fast enough")
	}
}

// handOver makes what another process needs to take over: the socket, and links
// to this process and those before. It goes on until that asks for it.
func (s *socket) handOver() (f *os.File, links []*os.File, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.heir != nil {
		return nil, nil, errors.New("it is being handed over already")
	}
	l, theirs, err := newPair()
	if err != nil {
		return nil, nil, err
	}
	links = append(links, theirs)
	defer func() {
		if err != nil {
			_ = l.conn.Close() // nothing has been said
			for _, f := range links {
				_ = f.Close()
			}
		}
	}()
	for _, b := range s.before {
		f, err := b.file()
		if err != nil {
			return nil, nil, err
		}
		links = append(links, f)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	if f, err = duplicate(raw, "quic"); err != nil {
		return nil, nil, err
	}
	if s.closing {
		return nil, nil, errors.Join(fmt.Errorf("it has closed: %w", net.ErrClosed), f.Close())
	}
	s.heir = l
	s.done.Go(func() { s.expect(l) }) // ends with the link, or when it is asked for the socket
	return f, links, nil
}

// expect gives the socket to who asks for it.
func (s *socket) expect(l *link) {
	var m ipv4.Message
	for {
		kind, err := l.read(&m)
		s.mu.Lock()
		if s.heir != l {
			s.mu.Unlock()
			return
		}
		switch {
		case err != nil: // it has ended without
			s.heir = nil
		case kind == linkTake:
			s.taken = true
			s.publish() // the reader answers
		}
		s.mu.Unlock()
		if err != nil {
			_ = l.conn.Close() // nothing has been said
		}
		if err != nil || kind == linkTake {
			return
		}
	}
}

// reclaim takes the socket back.
func (s *socket) reclaim() {
	s.mu.Lock()
	l := s.heir
	s.heir, s.taken = nil, false
	s.publish()
	s.mu.Unlock()
	if l != nil {
		_ = l.conn.Close() // its reader has to see it
	}
}

// hush lets those who are new go unheard, and with nobody here all. As long as
// processes before are there, it is theirs that is read.
func (s *socket) hush(alone bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mute = true
	s.held = alone && len(s.before) == 0
	s.publish()
}

// passed reports whether new clients are another process's.
func (s *socket) passed() bool {
	r := s.route.Load()
	return r != nil && (r.heir != nil || r.mute)
}

// SetReadDeadline is how quic-go ends the reading, for good.
func (s *socket) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil
	}
	s.closing = true
	close(s.stop)
	if s.heir != nil {
		_ = s.heir.conn.SetReadDeadline(t) // fails when it is closed
	}
	return s.UDPConn.SetReadDeadline(t)
}

// Close closes the socket, here; and what joins it to other processes.
func (s *socket) Close() error {
	s.mu.Lock()
	links := slices.Clone(s.before)
	if s.heir != nil {
		links = append(links, s.heir)
	}
	if !s.closing {
		s.closing = true
		close(s.stop)
	}
	s.mu.Unlock()
	for _, l := range links {
		_ = l.conn.Close() // ends who waits for it
	}
	err := s.UDPConn.Close()
	s.done.Wait()
	return err
}

// SyscallConn is the bare socket's.
func (s *socket) SyscallConn() (syscall.RawConn, error) { return s.UDPConn.SyscallConn() }
