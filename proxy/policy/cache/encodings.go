package cache

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

const (
	// encodingWait is how long a request waits for another that encodes the same;
	// then it has its own answer encoded while that passes.
	encodingWait = time.Second
	// fillWait is how long a request that wants a coding waits for the rest of an
	// answer that is on its way, so that it is encoded once.
	fillWait = 50 * time.Millisecond
	// mostFromDisk is up to which length what isn't in memory is read to be encoded.
	mostFromDisk = 2 << 20
	// noRoomTime is how long nothing is made after there was no room to keep it.
	noRoomTime = time.Second
)

// Recoded gives what encodes the route's responses: answers are stored without a
// coding then, and the codings made of them are kept beside them.
func (p *Policy) Recoded(by policy.Coder) { p.coder = by }

// encodings are those that are being made.
type encodings struct {
	mu   sync.Mutex // guards what follows
	list map[encodingKey]*encoding

	noRoom atomic.Int64 // nothing is made before that time, since there is no room to keep it
}

type encodingKey struct {
	id   uint64 // of the entry
	name string
}

// encoding is one that is being made: who makes it ends it, the others wait.
type encoding struct {
	done chan struct{} // closed when b and ok are set
	b    []byte
	ok   bool
}

// begin is the encoding of that key, and whether the caller is to make it.
func (s *encodings) begin(k encodingKey) (e *encoding, own bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.list[k]; e != nil {
		return e, false
	}
	if s.list == nil {
		s.list = map[encodingKey]*encoding{}
	}
	e = &encoding{done: make(chan struct{})}
	s.list[k] = e
	return e, true
}

func (s *encodings) end(k encodingKey, e *encoding) {
	s.mu.Lock()
	delete(s.list, k)
	s.mu.Unlock()
	close(e.done)
}

var _ exchange.Stored = (*look)(nil)

// stored says that the response of the exchange is e, all of it; f: that it is what
// is on its way.
func (l *look) stored(e *entry, f *fill) {
	if l.p.coder != nil {
		l.entry, l.fill, l.x.Stored = e, f, l
	}
}

// Encoded is the content in a coding, kept or made now.
func (l *look) Encoded(name string, encode func(content []byte) ([]byte, bool)) ([]byte, bool) {
	if l.fill != nil && (encode == nil || !l.arrived()) {
		return nil, false
	}
	s, e := l.p.store, l.entry
	if b := s.attached(e, name); b != nil {
		return b, true
	}
	if encode == nil || l.now.UnixNano() < s.encodings.noRoom.Load() {
		return nil, false
	}
	k := encodingKey{e.id, name}
	c, own := s.encodings.begin(k)
	if !own {
		t := time.NewTimer(encodingWait)
		defer t.Stop()
		select {
		case <-c.done:
			return c.b, c.ok
		case <-t.C:
			return nil, false
		}
	}
	defer s.encodings.end(k, c)
	if b := s.attached(e, name); b != nil { // another has made it, between the look and here
		c.b, c.ok = b, true
		return b, true
	}
	content, ok := l.content(e)
	if !ok {
		return nil, false
	}
	b, ok := encode(content)
	if ok {
		l.p.counts.encoded.Add(1)
		if !s.attach(e, name, b) {
			s.encodings.noRoom.Store(l.now.Add(noRoomTime).UnixNano())
		}
	}
	c.b, c.ok = b, ok
	return b, ok
}

// content is all of e's body. One that is on disk is read from the response's.
func (l *look) content(e *entry) ([]byte, bool) {
	x := l.x
	if e.file == nil || x.ResponseBody == nil || e.length > mostFromDisk {
		return e.body, e.body != nil
	}
	if !l.p.store.reserveFlying(e.length) {
		return nil, false // it is encoded while it passes
	}
	defer l.p.store.releaseFlying(e.length)
	b := make([]byte, e.length)
	if _, err := io.ReadFull(x.ResponseBody, b); err != nil {
		return nil, false // whoever reads on gets the error
	}
	x.Replace(b) // what is encoded takes its place, unless that fails
	return b, true
}

// arrived waits for the rest of an answer on its way, for a moment.
func (l *look) arrived() bool {
	f := l.fill
	if !f.sized { // it may be a stream, whose parts are worth something as they come
		return false
	}
	t := time.NewTimer(fillWait)
	defer t.Stop()
	select {
	case <-f.done:
	case <-t.C:
		return false
	}
	if f.entry == nil { // it broke off, or is too large
		return false
	}
	l.entry, l.fill = f.entry, nil
	return true
}

// decode takes the coding off the response. What came is recorded: those who take
// the coding get it as it is.
func (l *look) decode(x *exchange.Exchange, e *entry, coding string) *recording {
	raw := &recording{Body: x.ResponseBody, store: l.p.store, most: min(l.p.MaxObject, l.p.store.largest())}
	x.ResponseBody, x.ResponseLength, e.length = l.p.coder.Decode(coding, raw), -1, -1
	x.ResponseEdits.Remove("Content-Encoding")
	x.ResponseEdits.Remove("Content-Length")
	x.ResponseEdits.Remove("Accept-Ranges")
	if e.ETag != "" {
		x.ResponseEdits.SetID(exchange.ETag, "ETag", e.ETag)
	}
	return raw
}

// recording is a body that keeps what is read of it, as long as there is room for it.
type recording struct {
	exchange.Body
	store *Store
	most  int64
	b     []byte
	held  int64 // bytes of memory that were reserved
	over  bool
}

// Read keeps what it returns.
func (r *recording) Read(p []byte) (int, error) {
	n, err := r.Body.Read(p)
	r.keep(p[:n])
	return n, err
}

// Next keeps what it returns.
func (r *recording) Next() ([]byte, bool) {
	b, done := r.Body.Next()
	r.keep(b)
	return b, done
}

func (r *recording) keep(b []byte) {
	n := int64(len(r.b) + len(b))
	if r.over || n > r.most {
		r.giveUp()
		return
	}
	if n > r.held {
		more := max(n, min(2*r.held, r.most), chunkSize)
		if !r.store.reserveFlying(more) { // what it has is copied: both are there for a moment
			r.giveUp()
			return
		}
		r.b = append(make([]byte, 0, more), r.b...)
		r.store.releaseFlying(r.held)
		r.held = more
	}
	r.b = append(r.b, b...)
}

// giveUp forgets what was kept.
func (r *recording) giveUp() {
	r.over, r.b = true, nil
	r.store.releaseFlying(r.held)
	r.held = 0
}

func (r *recording) whole() bool { return !r.over && len(r.b) > 0 }

// done is the end of what was kept; of a service without a coding there is none.
func (r *recording) done() {
	if r != nil {
		r.giveUp()
	}
}
