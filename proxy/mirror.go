package proxy

import (
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

const (
	mirrorBody   = 64 << 10 // largest body that is copied; larger requests aren't mirrored
	mirrorAtOnce = 64       // copies in flight for a route; beyond them copies are dropped
	mirrorTime   = 30 * time.Second
)

// Mirror sends copies of some requests to another service and drops its
// answers. A copy has a goroutine of its own, since the client's must not wait
// for it; there are at most mirrorAtOnce, and each ends within mirrorTime.
type Mirror struct {
	Service string
	Pool    *upstream.Pool
	Percent float64

	running atomic.Int32
	dropped atomic.Uint64
}

// Dropped is how many copies weren't sent, for their size or because too many
// were in flight.
func (m *Mirror) Dropped() uint64 { return m.dropped.Load() }

func (m *Mirror) send(x *exchange.Exchange) {
	if m.Percent < 100 && rand.Float64()*100 >= m.Percent {
		return
	}
	if x.Upgrade != "" || x.RequestLength < 0 || x.RequestLength > mirrorBody || m.running.Load() >= mirrorAtOnce {
		m.dropped.Add(1)
		return
	}
	var body []byte
	if x.RequestLength > 0 && x.RequestBody != nil {
		body = make([]byte, x.RequestLength)
		n, err := io.ReadFull(x.RequestBody, body)
		if err != nil { // the real request runs into the same error after these bytes
			x.RequestBody = &resumed{Body: x.RequestBody, head: body[:n]}
			return
		}
		x.RequestBody = exchange.Bytes(body)
	}
	c := detach(x, body)
	m.running.Add(1)
	go m.run(c)
}

func (m *Mirror) run(c *exchange.Exchange) {
	defer m.running.Add(-1)
	fault := m.Pool.Send(c)
	var err error
	if fault != nil {
		err = fault
	} else if c.ResponseBody != nil {
		if _, err = io.Copy(io.Discard, c.ResponseBody); err == nil {
			err = c.ResponseBody.Close()
		}
	}
	if c.Lease != nil {
		c.Lease.Release(c, err)
	}
}

// detach is a copy of what x sends, in memory of its own.
func detach(x *exchange.Exchange, body []byte) *exchange.Exchange {
	c := &exchange.Exchange{}
	c.Reset(x.Proto, x.Conn, nobody{})
	c.Start, c.Deadline = time.Now(), time.Now().Add(mirrorTime)
	keep := func(s string) string { return c.Keep([]byte(s)) }
	c.Method = x.Method
	c.Target = exchange.Target{
		Scheme: x.Target.Scheme, Authority: keep(x.Target.Authority), Host: keep(x.Target.Host),
		Path: keep(x.Target.Path), Query: keep(x.Target.Query), HasQuery: x.Target.HasQuery,
	}
	c.Out = exchange.Outgoing{Path: keep(x.Out.Path), Host: keep(x.Out.Host)}
	c.Copy = true
	c.ClientIP, c.RequestID, c.Consumer, c.Claims = x.ClientIP, keep(x.RequestID), x.Consumer, x.Claims
	for i := range x.Request.Len() {
		if x.Request.Dropped(i) {
			continue
		}
		name, value := x.Request.Field(i)
		if x.Request.ID(i) != exchange.Expect && !x.RequestEdits.Replaces(name, x.Request.ID(i)) {
			c.Request.Append(name, value)
		}
	}
	for i := range x.RequestEdits.Len() {
		if name, value, ok := x.RequestEdits.Field(i); ok {
			c.Request.Append(name, value)
		}
	}
	c.RequestLength = int64(len(body))
	if len(body) > 0 {
		c.RequestBody = exchange.Bytes(body)
	}
	return c
}

// nobody is the front of a copy: nobody waits for its answer.
type nobody struct{}

func (nobody) Respond(*exchange.Exchange) error                      { return nil }
func (nobody) Interim(*exchange.Exchange, int, *exchange.Head) error { return nil }
func (nobody) Gone(*exchange.Exchange) bool                          { return false }

// resumed is a body of which some bytes have been read before.
type resumed struct {
	exchange.Body
	head []byte
}

func (r *resumed) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	return r.Body.Read(p)
}

func (r *resumed) Next() ([]byte, bool) {
	if len(r.head) > 0 {
		b := r.head
		r.head = nil
		return b, false
	}
	return r.Body.Next()
}
