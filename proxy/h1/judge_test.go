package h1

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// blames keeps what connections are asked to end and closed for.
type blames struct {
	mu   sync.Mutex
	list []string
}

func (b *blames) take(_ *exchange.Conn, k abuse.Kind, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, fmt.Sprintf("%s %t", k, closed))
}

func (b *blames) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.list, ", ")
}

// TestBlame: which ends of a connection are put down to the client.
func TestBlame(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"a request", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", ""},
		{"malformed", "GET / HTTP/1.1\r\nHost : h\r\n\r\n", "malformed true"},
		{"malformed body", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "malformed true"},
		{"no HTTP", "\x16\x03\x01\x02\x00\x01\x00", "malformed true"},
		{"long target", "GET /" + strings.Repeat("a", 9000) + " HTTP/1.1\r\nHost: h\r\n\r\n", "headers true"},
		{"half a head", "GET / HTTP/1.1\r\nHost:", "slow true"},
		{"half a body", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc", ""},
		{"nothing", "", ""},
		{"nothing more", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", ""},
		{"CONNECT", "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var b blames
			cfg := testConfig(startSweeper(t), handlerFunc(func(x *exchange.Exchange) {
				if x.Fault != nil {
					_ = refuse(x, x.Fault)
					return
				}
				if x.RequestBody != nil {
					if _, err := io.Copy(io.Discard, x.RequestBody); err != nil {
						f, _ := asFault(err)
						_ = refuse(x, f)
						return
					}
				}
				x.Reply(200, "", nil)
				_ = x.Front.Respond(x)
			}))
			cfg.HeaderTimeout, cfg.StallTimeout, cfg.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
			ended := make(chan struct{})
			cfg.Abusive, cfg.Ended = b.take, func(*exchange.Conn) { close(ended) }
			exchangeRaw(t, startFront(t, NewFront(cfg)), tt.in)
			<-ended
			if got := b.String(); got != tt.want {
				t.Errorf("blamed for %q, want %q", got, tt.want)
			}
		})
	}
}

// TestManyRefusals: requests that are refused for their form and leave the
// connection open end it all the same when there are many: first in good form,
// then without.
func TestManyRefusals(t *testing.T) {
	var b blames
	cfg := testConfig(startSweeper(t), handlerFunc(func(x *exchange.Exchange) {
		if x.RawTarget == "/bad" {
			_ = refuse(x, exchange.NewFault(exchange.FromClient, exchange.BadPath, "no such path can be"))
			return
		}
		x.Reply(200, "", nil)
		_ = x.Front.Respond(x)
	}))
	cfg.Abusive = b.take
	addr := startFront(t, NewFront(cfg))
	c := dial(t, addr)
	r := bufio.NewReader(c)
	answered := 0
	for ; answered < 1000; answered++ {
		target := "/bad"
		if answered%2 == 1 {
			target = "/good"
		}
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", target); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.Close {
			break
		}
	}
	if answered < 100 || answered > 400 {
		t.Errorf("%d requests until the connection is to end", answered)
	}
	if got := b.String(); got != "refused false" {
		t.Errorf("blamed for %q", got)
	}
	// Pipelined, nobody waits for the word to leave.
	b = blames{}
	c = dial(t, addr)
	go func() { _, _ = io.WriteString(c, strings.Repeat("GET /bad HTTP/1.1\r\nHost: h\r\n\r\n", 1000)) }()
	all, _ := io.ReadAll(c)
	if n := strings.Count(string(all), "HTTP/1.1 400"); n < 50 || n > 200 {
		t.Errorf("%d of 1000 pipelined requests were answered", n)
	}
	if got := b.String(); !strings.HasPrefix(got, "refused false") {
		t.Errorf("blamed for %q", got)
	}
}
