package charge

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// counted is a request's body whose length isn't known.
type counted struct {
	exchange.Body
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Body.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *counted) Next() ([]byte, bool) {
	b, done := c.Body.Next()
	c.n.Add(int64(len(b)))
	return b, done
}

// meter is a response's body, at whose end is decided what it costs: the client
// doesn't get its last bytes before the disk knows of the charge.
type meter struct {
	exchange.Body
	p *Policy
	x *exchange.Exchange
	t *task

	n    atomic.Int64 // bytes that were given out
	left int64        // bytes to come; -1: not known
	last []byte       // what stands before the end
	ends bool         // nothing comes behind last

	mu    sync.Mutex // guards over
	over  bool       // it is decided
	fault error      // why the end isn't given out
}

var _ exchange.Body = (*meter)(nil)

// Read holds back the end until it is decided.
func (m *meter) Read(p []byte) (int, error) {
	if m.fault != nil {
		return 0, m.fault
	}
	if m.ends {
		return m.rest(p)
	}
	n, err := m.Body.Read(p)
	m.n.Add(int64(n))
	if m.left > 0 {
		m.left -= int64(n)
	}
	if err == io.EOF || m.left == 0 && err == nil && n > 0 {
		if m.fault = m.finish(); m.fault != nil {
			return 0, m.fault
		}
	}
	return n, err
}

// rest gives out what Next has held back.
func (m *meter) rest(p []byte) (int, error) {
	if m.fault = m.finish(); m.fault != nil {
		return 0, m.fault
	}
	n := copy(p, m.last)
	m.last = m.last[n:]
	m.n.Add(int64(n))
	if len(m.last) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// finish decides, once.
func (m *meter) finish() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over {
		return nil
	}
	m.over = true
	return m.p.end(m.x, m.t, m.n.Load()+int64(len(m.last)))
}

// Next never blocks, and so leaves the end to Read.
func (m *meter) Next() ([]byte, bool) {
	if m.fault != nil || m.ends {
		return nil, false
	}
	b, done := m.Body.Next()
	if m.left > 0 {
		m.left -= int64(len(b))
	}
	if done || m.left == 0 && len(b) > 0 {
		m.last, m.ends = b, true
		return nil, false
	}
	m.n.Add(int64(len(b)))
	return b, false
}

// Close gives the body up. A client that has left pays for what it had; whether it
// is the client that has left shows at the end of the exchange.
func (m *meter) Close() error {
	m.mu.Lock()
	if !m.over {
		m.over = true
		m.p.lateOnes(m.x, m.t, m.n.Load())
	}
	m.mu.Unlock()
	return m.Body.Close()
}
