package exchange

import (
	"errors"
	"fmt"
	"io"
	"net"
)

// firstTaken is how much of a body is read at first; most are shorter.
const firstTaken = 8 << 10

// TakeBody reads the request's body into memory, up to most bytes, and leaves
// one in its place that gives the same bytes again, whoever reads it next. whole
// tells that b is all of it; the trailers have come then. The memory grows with
// what has come, not with what a Content-Length promises. b must not be changed.
// An error is a fault: the client's.
//
// A client that waits for 100 (Continue) gets it.
func (x *Exchange) TakeBody(most int64) (b []byte, whole bool, err error) {
	if x.RequestBody == nil || x.RequestLength == 0 {
		return nil, true, nil
	}
	if t, ok := x.RequestBody.(*taken); ok && t.whole && int64(len(t.all)) <= most && len(t.head) == len(t.all) {
		return t.all, true, nil // another policy has taken it
	}
	if n := x.RequestLength; n > 0 {
		most = min(most, n)
	}
	b, whole, err = read(x.RequestBody, most)
	if err != nil {
		return nil, false, err
	}
	x.RequestBody = &taken{Body: x.RequestBody, all: b, head: b, whole: whole}
	if int64(len(b)) > most { // one byte more told that there is more
		b = b[:most]
	}
	return b, whole, nil
}

// read reads up to one byte more than most, which tells whether a body is
// longer.
func read(body Body, most int64) (b []byte, whole bool, err error) {
	limit := int(most) + 1
	b = make([]byte, 0, min(firstTaken, limit))
	for {
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, int64(len(b)) <= most, nil
		case err != nil:
			return nil, false, brokenOff(err)
		case len(b) == limit:
			return b, false, nil
		case len(b) == cap(b):
			b = append(make([]byte, 0, min(2*cap(b), limit)), b...)
		}
	}
}

// brokenOff is the fault of a body that ended too early.
func brokenOff(err error) error {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return &Fault{Source: FromClient, Kind: ClientGone, Err: fmt.Errorf("request body: %w", err)}
}

// taken is a body of which the beginning is in memory.
type taken struct {
	Body         // the rest
	all   []byte // the beginning
	head  []byte // what nobody has read of it
	whole bool   // there is no rest
}

var _ Spliceable = (*taken)(nil)

// Read reads the beginning, then the rest.
func (t *taken) Read(p []byte) (int, error) {
	switch {
	case len(t.head) == 0 && t.whole:
		return 0, io.EOF
	case len(t.head) == 0:
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
	t.head = nil
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
