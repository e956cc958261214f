package exchange

import (
	"io"
	"net"
)

// Unread puts b, which was read from the request's body, in front of what is
// left of it; whole tells that nothing is. Whoever reads the body next reads b
// first, at once with all of it if it is whole. b must not be changed.
func (x *Exchange) Unread(b []byte, whole bool) {
	x.RequestBody = &taken{Body: x.RequestBody, all: b, head: b, whole: whole}
}

// Taken is the request's body, if all of it is in memory by Unread, and nobody
// has read it since.
func (x *Exchange) Taken() (b []byte, ok bool) {
	t, ok := x.RequestBody.(*taken)
	if !ok || !t.whole || len(t.head) != len(t.all) {
		return nil, false
	}
	return t.all, true
}

// taken is a body of which the beginning is in memory.
type taken struct {
	Body         // the rest
	all   []byte // the beginning; nil: it has been read
	head  []byte // what nobody has read of it
	whole bool   // there is no rest
}

var _ Spliceable = (*taken)(nil)

// Read reads the beginning, then the rest.
func (t *taken) Read(p []byte) (int, error) {
	if len(t.head) == 0 {
		t.all, t.head = nil, nil // its memory isn't needed any more
		if t.whole {
			return 0, io.EOF
		}
		return t.Body.Read(p)
	}
	n := copy(p, t.head)
	if t.head = t.head[n:]; len(t.head) == 0 && t.whole {
		return n, io.EOF
	}
	return n, nil
}

// Next returns the beginning, then what of the rest is in memory.
func (t *taken) Next() ([]byte, bool) {
	if len(t.head) == 0 && !t.whole {
		return t.Body.Next()
	}
	b := t.head
	t.all, t.head = nil, nil
	return b, t.whole
}

// Raw lets the kernel move the rest.
func (t *taken) Raw() (*net.TCPConn, int64, bool) {
	s, ok := t.Body.(Spliceable)
	if !ok || t.whole || len(t.head) > 0 {
		return nil, 0, false
	}
	return s.Raw()
}

// Spliced notes what it moved.
func (t *taken) Spliced(n int64) {
	if s, ok := t.Body.(Spliceable); ok {
		s.Spliced(n)
	}
}
