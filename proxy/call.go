package proxy

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// Call is a request of the gateway's own to a service, which takes the way of all
// requests: balanced, over the service's connections and TLS.
type Call struct {
	Method, Path, Query string
	Host                string // "": the service's name
	Header              []Field
	Body                []byte
	Until               time.Time
	MaxBody             int64 // bytes of the answer; more is an error
}

// Field is a header field.
type Field struct{ Name, Value string }

// CallAnswer is what the service says.
type CallAnswer struct {
	Status int
	Body   []byte
}

// Send sends c to an instance of pool and reads the whole answer. It blocks up to
// c.Until, and uses no goroutine of its own.
func (c *Call) Send(pool *upstream.Pool, service string) (*CallAnswer, error) {
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{Listener: "-", Scheme: "http"}, nobody{})
	x.Start, x.Deadline = time.Now(), c.Until
	x.Method, x.Copy = c.Method, true
	host := c.Host
	if host == "" {
		host = service
	}
	x.Target = exchange.Target{Scheme: "http", Authority: host, Host: host, Path: c.Path, Query: c.Query, HasQuery: c.Query != ""}
	for _, f := range c.Header {
		x.Request.Append(f.Name, f.Value)
	}
	if len(c.Body) > 0 {
		x.RequestLength, x.RequestBody = int64(len(c.Body)), exchange.Bytes(c.Body)
	}
	if f := pool.Send(x); f != nil {
		return nil, f
	}
	a := &CallAnswer{Status: x.Status}
	err := a.read(x, c.MaxBody)
	if x.ResponseBody != nil {
		_ = x.ResponseBody.Close() // its outcome is the lease's
	}
	if x.Tunnel != nil {
		_ = x.Tunnel.Close()
	}
	if x.Lease != nil {
		x.Lease.Release(x, err)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

func (a *CallAnswer) read(x *exchange.Exchange, most int64) error {
	if x.Tunnel != nil {
		return errors.New("it answers 101")
	}
	if x.ResponseBody == nil || !x.HasResponseBody() {
		return nil
	}
	var err error
	if a.Body, err = io.ReadAll(io.LimitReader(x.ResponseBody, most+1)); err != nil {
		return err
	}
	if int64(len(a.Body)) > most {
		return fmt.Errorf("its answer has more than %d bytes", most)
	}
	return nil
}
