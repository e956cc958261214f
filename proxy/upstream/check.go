package upstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// check asks one instance, on a connection of its own: nil is a good answer.
func (c *checker) check(ctx context.Context, in *instance) error {
	began := c.p.g.clock()
	name := c.h.Host
	if h, _, err := net.SplitHostPort(name); err == nil {
		name = h
	}
	if name == "" {
		name = in.host
	}
	if c.h.Type == "tcp" {
		ctx, cancel := context.WithTimeout(ctx, c.h.Timeout)
		defer cancel()
		nc, err := c.p.g.reach(ctx, in.addr)
		if err != nil {
			return err
		}
		return nc.Close()
	}
	way := c.s.way(&in.conns)
	nc, err := c.p.g.dial(way, in.addr, name, c.h.Timeout, c.h.Host == "")
	if err != nil {
		return err
	}
	k := &conn{to: &in.conns, plan: way}
	if err := c.p.g.speak(k, nc); err != nil {
		return err
	}
	defer func() {
		// The answer counts, not how the connection ends.
		_ = k.speaker.Close()
	}()
	// Whatever a protocol waits for, it ends with its socket.
	left := c.h.Timeout - c.p.g.clock().Sub(began)
	timer := time.AfterFunc(max(left, 0), func() { _ = nc.Close() })
	defer timer.Stop()
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	defer stop()
	if c.h.Type == "grpc" {
		err = c.grpc(k, in)
	} else {
		err = c.http(k, in)
	}
	var f *exchange.Fault
	if errors.As(err, &f) && refusedUs(f, k) {
		err = fmt.Errorf("the instance refuses our certificate: %w", f.Err)
	}
	if err != nil && c.p.g.clock().Sub(began) >= c.h.Timeout {
		return fmt.Errorf("no answer within %s", c.h.Timeout)
	}
	return err
}

// ask returns an exchange that asks in for path.
func (c *checker) ask(in *instance, method, path string) *exchange.Exchange {
	host := c.h.Host
	if host == "" {
		host = in.addr
		if strings.HasPrefix(host, unixPrefix) {
			host = in.host
		}
	}
	scheme := "http"
	if c.s.way(&in.conns).tls != nil {
		scheme = "https"
	}
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: scheme}, nobody{})
	x.Start = c.p.g.clock()
	x.Method, x.RawTarget, x.RawHost = method, path, host
	x.Target = exchange.Target{Scheme: scheme, Authority: host, Host: host, Path: path}
	x.Out = exchange.Outgoing{Path: path, Host: host}
	x.Request.Append("User-Agent", "sidegate-check")
	x.Deadline = x.Start.Add(c.h.Timeout)
	return x
}

// nobody is the front of an exchange without a client.
type nobody struct{}

func (nobody) Respond(*exchange.Exchange) error                      { return nil }
func (nobody) Interim(*exchange.Exchange, int, *exchange.Head) error { return nil }
func (nobody) Gone(*exchange.Exchange) bool                          { return false }

func (c *checker) http(k *conn, in *instance) error {
	path := c.h.Path
	if path == "" {
		path = "/"
	}
	x := c.ask(in, "GET", path)
	if err := k.ask(x); err != nil {
		return err
	}
	if x.Status < 200 || x.Status > 399 {
		return fmt.Errorf("GET %s: status %d", path, x.Status)
	}
	return nil
}

// ask makes one exchange on a connection that nobody else uses.
func (c *conn) ask(x *exchange.Exchange) error {
	if c.many != nil && !c.many.Reserve() {
		return errors.New("no streams allowed")
	}
	if _, f := c.RoundTrip(x); f != nil {
		return f
	}
	return nil
}

// grpc asks grpc.health.v1.Health/Check. Its messages are two fields:
// HealthCheckRequest{1: service} and HealthCheckResponse{1: status, 1 SERVING}.
func (c *checker) grpc(k *conn, in *instance) error {
	x := c.ask(in, "POST", "/grpc.health.v1.Health/Check")
	x.Request.Append("Content-Type", "application/grpc")
	x.Request.Append("TE", "trailers")
	body := grpcCheckRequest(c.h.Service)
	x.RequestBody, x.RequestLength = exchange.Bytes(body), int64(len(body))
	if err := k.ask(x); err != nil {
		return err
	}
	if x.Status != 200 {
		return fmt.Errorf("grpc check: status %d", x.Status)
	}
	var answer []byte
	if x.ResponseBody != nil {
		var err error
		if answer, err = io.ReadAll(io.LimitReader(x.ResponseBody, 1<<10)); err != nil {
			return fmt.Errorf("grpc check: %w", err)
		}
	}
	status := x.ResponseTrailer.Get(exchange.GRPCStatus)
	if status == "" {
		status = x.Response.Get(exchange.GRPCStatus) // a response of trailers only
	}
	if status != "0" {
		return fmt.Errorf("grpc check: grpc-status %q", status)
	}
	return grpcServing(answer)
}

const grpcPrefix = 5 // compressed flag, length

func grpcCheckRequest(service string) []byte {
	var msg []byte
	if service != "" {
		msg = append(msg, 1<<3|2) // field 1, length-delimited
		msg = binary.AppendUvarint(msg, uint64(len(service)))
		msg = append(msg, service...)
	}
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg)))
	return append(b, msg...)
}

// grpcServing reads a HealthCheckResponse.
func grpcServing(b []byte) error {
	if len(b) < grpcPrefix || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-grpcPrefix) {
		return errors.New("grpc check: the answer isn't one plain message")
	}
	status := uint64(0)
	for msg := b[grpcPrefix:]; len(msg) > 0; {
		key, n := binary.Uvarint(msg)
		if n <= 0 || key&7 != 0 { // HealthCheckResponse has varints only
			return errors.New("grpc check: malformed answer")
		}
		v, m := binary.Uvarint(msg[n:])
		if m <= 0 {
			return errors.New("grpc check: malformed answer")
		}
		if key>>3 == 1 {
			status = v
		}
		msg = msg[n+m:]
	}
	switch status {
	case 1:
		return nil
	case 2:
		return errors.New("grpc check: not serving")
	case 3:
		return errors.New("grpc check: the service isn't known")
	default:
		return fmt.Errorf("grpc check: serving status %d", status)
	}
}
