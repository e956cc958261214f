package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/http2"
)

// abuses are one way for each protocol to make a gateway close a connection.
var abuses = []struct {
	protocol, kind string
	do             func(t *testing.T, g *gateway)
}{
	{"h1", "malformed", func(t *testing.T, g *gateway) {
		_, _, _ = ask(g.raw(t), "GET / HTTP/1.1\r\nHost : one.test\r\n\r\n") // what is answered is another test's matter
	}},
	{"h2", "ping", func(t *testing.T, g *gateway) {
		c := g.raw(t)
		_, _ = io.WriteString(c, http2.ClientPreface) // what fails shows in the reading
		fr := http2.NewFramer(c, c)
		go func() {
			err := fr.WriteSettings()
			for i := 0; i < 10000 && err == nil; i++ {
				err = fr.WritePing(false, [8]byte{})
			}
		}()
		asked := false
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatalf("no end in good form: %v", err)
			}
			if f, ok := f.(*http2.GoAwayFrame); ok && f.ErrCode != http2.ErrCodeNo {
				if f.ErrCode != http2.ErrCodeEnhanceYourCalm || !asked {
					t.Errorf("GOAWAY %v, asked before: %t", f.ErrCode, asked)
				}
				return
			} else if ok {
				asked = true
			}
		}
	}},
	{"h3", "unknown", func(t *testing.T, g *gateway) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := quic.DialAddr(ctx, fmt.Sprintf("127.0.0.1:%d", g.https), &tls.Config{InsecureSkipVerify: true, ServerName: "one.test", NextProtos: []string{"h3"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		str, err := c.OpenUniStream()
		if err == nil {
			_, err = str.Write([]byte{0, 4, 0}) // control, with empty SETTINGS
		}
		for i := 0; i < 10000 && err == nil; i++ {
			_, err = str.Write([]byte{0x21, 0})
		}
		<-c.Context().Done()
		var app *quic.ApplicationError
		if cause := context.Cause(c.Context()); !errors.As(cause, &app) || app.ErrorCode != 0x107 {
			t.Errorf("closed with %v, want H3_EXCESSIVE_LOAD", cause)
		}
	}},
}

// TestAbuse: on each protocol, who abuses connections has them closed and, where
// a block says so, is banned; the metrics and the log say for what.
func TestAbuse(t *testing.T) {
	g := newGateway(t, accessLog+twin(t, http.HandlerFunc(mirror))+`
route "guarded" {
  hosts   = ["guarded.test"]
  service = "one"
  ban { abuse = 2 }
}
`).start(t)
	clients := g.clients(t)
	for _, a := range abuses {
		t.Run(a.protocol, func(t *testing.T) {
			status := func(want int) {
				t.Helper()
				for _, c := range clients {
					eventually(t, fmt.Sprintf("%s: %d", c.name, want), func() error {
						if resp, _ := send(t, c, c.scheme+"://guarded.test/"); resp.StatusCode != want {
							return fmt.Errorf("%s", resp.Status)
						}
						return nil
					})
				}
			}
			a.do(t, g)
			status(200)
			a.do(t, g)
			status(403)
			if resp, _ := send(t, clients[0], "https://one.test/"); resp.StatusCode != 200 {
				t.Errorf("a route without ban: %s", resp.Status)
			}
			if out, code := run(t, "ban", "remove", "-config", g.config(), "127.0.0.1"); code != 0 {
				t.Fatalf("ban remove: %s", out)
			}
			status(200)
			metrics, err := g.get("/metrics")
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("sidegate_abusive_connections_total{action=\"closed\",kind=%q,protocol=%q} 2", a.kind, a.protocol); !strings.Contains(metrics, want) {
				t.Errorf("no %s in the metrics", want)
			}
		})
	}
	if !strings.Contains(g.log.String(), "a connection was closed for what its client sent") {
		t.Error("the log doesn't tell of it")
	}
	if out, code := run(t, "explain", "-config", g.config(), "https://guarded.test/"); code != 0 || !strings.Contains(out, "or 2 connections closed for abuse") {
		t.Errorf("explain (%d):\n%s", code, out)
	}
}
