package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// memories measures and prints what idle connections cost in resident memory:
// each is opened, has one request answered, and is then left alone. A process
// is started for each figure, since what an earlier load left behind in its
// heap would take the growth in.
func (b *bed) memories(o options) error {
	head := false
	for _, w := range []struct{ name, load, port, goal string }{
		{"idle connections, plain", "idle-plain", "plain", "4.5"},
		{"idle connections, TLS 1.3", "idle-tls", "tls", "12, below nginx"},
		{"idle connections, HTTP/2 over TLS", "idle-h2", "tls", "12, below nginx"},
	} {
		if !strings.Contains(w.name, o.only) {
			continue
		}
		held := o.held
		if !head {
			fmt.Printf("\n%d connections held idle for %s after one request each\n\n", held, o.settle)
			fmt.Println("| work | sidegate KiB each | goal, at most | nginx KiB | HAProxy KiB |\n|---|---|---|---|---|")
			head = true
		}
		var kib [3]float64
		for i, name := range []string{"sidegate", "nginx", "haproxy"} {
			n := held
			if name == "haproxy" { // needs two descriptors for each of its maxconn
				n = min(held, 9000)
			}
			v, err := b.memory(name, w.load, w.port, n, o.settle)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", w.name, name, err)
			}
			kib[i] = v
		}
		fmt.Printf("| %s | %.1f | %s | %.1f | %.1f |\n", w.name, kib[0], w.goal, kib[1], kib[2])
	}
	return nil
}

func (b *bed) memory(name, load, port string, held int, settle time.Duration) (float64, error) {
	if p, err := b.get(name); err == nil {
		b.end(p)
	}
	p, err := b.start(name)
	if err != nil {
		return 0, err
	}
	defer b.end(p)
	address := fmt.Sprintf("127.0.0.1:%d", p.ports[port])
	args := []string{b.self, "-load", load, "-address", address, "-conns", strconv.Itoa(held)}
	// A few connections first, so that what is allocated once isn't counted.
	cmd := b.command("1", b.self, "-load", load, "-address", address, "-conns", "20", "-length", "1ms")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	before, err := residentMemory(p.pid())
	if err != nil {
		return 0, err
	}
	cmd = b.command("1", append(args, "-length", (settle+time.Minute).String())...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill() // it would hold on
		_ = cmd.Wait()
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // "held"
		return 0, fmt.Errorf("the connections weren't all made: %w", err)
	}
	select {
	case <-time.After(settle):
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	}
	after, err := residentMemory(p.pid())
	return float64(after-before) / 1024 / float64(held), err
}

// hold opens the connections, has a request answered on each, says "held" and
// keeps them.
func (g *generator) hold(ctx context.Context) error {
	conns := make([]net.Conn, 0, g.conns)
	for i := range g.conns {
		c, err := g.open(i)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		conns = append(conns, c)
	}
	fmt.Println("held")
	select {
	case <-time.After(g.length):
	case <-ctx.Done():
	}
	for _, c := range conns {
		_ = c.Close() // only held
	}
	return nil
}

// open makes a connection, from one of several loopback addresses lest the
// ports run out.
func (g *generator) open(i int) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i%4))}}
	c, err := d.Dial("tcp", g.address)
	if err != nil || g.kind == "idle-plain" {
		if err == nil {
			err = exchange(c, bufio.NewReaderSize(c, 512), "")
		}
		return c, err
	}
	protocol := map[string]string{"idle-tls": "http/1.1", "idle-h2": "h2"}[g.kind]
	tc := tls.Client(c, clientTLS(protocol))
	if err := tc.Handshake(); err != nil {
		return nil, err
	}
	if got := tc.ConnectionState().NegotiatedProtocol; got != protocol {
		return nil, fmt.Errorf("%q was negotiated", got)
	}
	if g.kind == "idle-tls" {
		return tc, exchange(tc, bufio.NewReaderSize(tc, 512), "")
	}
	return tc, exchange2(tc)
}

// exchange2 asks for /small over HTTP/2 and reads until the stream's end.
func exchange2(c net.Conn) error {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "localhost"}, {Name: ":path", Value: "/small"},
	} {
		if err := enc.WriteField(f); err != nil {
			return err
		}
	}
	fr := http2.NewFramer(c, c)
	_, e1 := io.WriteString(c, http2.ClientPreface)
	e2 := fr.WriteSettings()
	e3 := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	if err := errors.Join(e1, e2, e3, c.SetDeadline(time.Now().Add(10*time.Second))); err != nil {
		return err
	}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if err := fr.WriteSettingsAck(); err != nil {
					return err
				}
			}
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			return fmt.Errorf("%v", f)
		}
		if f.Header().StreamID == 1 && f.Header().Flags.Has(http2.FlagDataEndStream) {
			return nil
		}
	}
}
