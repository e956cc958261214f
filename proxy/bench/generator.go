package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// generator is this program as a load generator, started by the other copy.
type generator struct {
	kind, address        string
	conns, streams, rate int
	length               time.Duration
}

func (g *generator) run(ctx context.Context) error {
	switch g.kind {
	case "http3":
		return g.count(ctx, g.http3)
	case "handshake", "resume":
		return g.count(ctx, g.handshakes)
	case "rate":
		return g.openLoop()
	case "idle-plain", "idle-tls", "idle-h2":
		return g.hold(ctx)
	}
	return fmt.Errorf("no load generator %q", g.kind)
}

// count runs one worker for each connection until the time is up, and prints
// how many requests they got answered. The first failure counts.
func (g *generator) count(ctx context.Context, worker func(context.Context, *atomic.Int64) error) error {
	ctx, cancel := context.WithTimeout(ctx, g.length)
	defer cancel()
	var answered atomic.Int64
	errs := make([]error, g.conns)
	var wg sync.WaitGroup
	for i := range g.conns {
		wg.Go(func() { errs[i] = worker(ctx, &answered) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println(answered.Load())
	return nil
}

// clientTLS doesn't check the throw-away certificate, so that the client's core
// has time for more requests. X25519 because OpenSSL 3.0 knows nothing newer:
// otherwise sidegate alone would do a post-quantum key exchange.
func clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, ServerName: "localhost", NextProtos: protocols,
		CurvePreferences: []tls.CurveID{tls.X25519}, RootCAs: x509.NewCertPool(),
	}
}

// http3 has one QUIC connection and its streams.
func (g *generator) http3(ctx context.Context, answered *atomic.Int64) error {
	t := &http3.Transport{TLSClientConfig: clientTLS(http3.NextProtoH3)}
	defer t.Close()
	errs := make([]error, g.streams)
	var wg sync.WaitGroup
	for i := range g.streams {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := g.get(ctx, t); err != nil {
					if ctx.Err() == nil {
						errs[i] = err
					}
					return
				}
				answered.Add(1)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (g *generator) get(ctx context.Context, t http.RoundTripper) error {
	r, err := http.NewRequestWithContext(ctx, "GET", "https://"+g.address+"/small", nil)
	if err != nil {
		return err
	}
	r.Header.Set("X-Api-Key", apiKey) // a profile's listener wants it
	answer, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer.Body)
	_ = answer.Body.Close() // read to its end
	if err == nil && answer.StatusCode != 200 {
		err = errors.New(answer.Status)
	}
	return err
}

// handshakes makes a connection for each request.
func (g *generator) handshakes(ctx context.Context, answered *atomic.Int64) error {
	config := clientTLS("http/1.1")
	resume := g.kind == "resume"
	if resume {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	for first := true; ctx.Err() == nil; first = false {
		resumed, err := g.request(config)
		if err != nil {
			return err
		}
		if resume && !first && !resumed {
			return errors.New("a connection wasn't resumed")
		}
		answered.Add(1)
	}
	return nil
}

func (g *generator) request(config *tls.Config) (resumed bool, err error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: config}
	c, err := d.Dial("tcp", g.address)
	if err != nil {
		return false, err
	}
	defer c.Close()
	if err := exchange(c, bufio.NewReader(c), "Connection: close\r\n"); err != nil {
		return false, err
	}
	return c.(*tls.Conn).ConnectionState().DidResume, nil
}

// exchange asks for /small and reads the answer.
func exchange(c net.Conn, from *bufio.Reader, fields string) error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "GET /small HTTP/1.1\r\nHost: localhost\r\nX-API-Key: "+apiKey+"\r\n"+fields+"\r\n"); err != nil {
		return err
	}
	r, err := http.ReadResponse(from, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close() // read to its end
	if err == nil && r.StatusCode != 200 {
		err = errors.New(r.Status)
	}
	return err
}
