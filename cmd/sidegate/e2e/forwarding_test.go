package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// each runs a test over each client's protocol that is wanted (all when none
// is), to each backend.
func (g *gateway) each(t *testing.T, f func(t *testing.T, c protocolClient, base string), wanted ...string) {
	t.Helper()
	for _, c := range g.clients(t) {
		take := len(wanted) == 0
		for _, w := range wanted {
			take = take || w == c.name
		}
		if !take {
			continue
		}
		for _, host := range []string{"one.test", "two.test"} {
			t.Run(c.name+" to "+host, func(t *testing.T) { f(t, c, c.scheme+"://"+host) })
		}
	}
}

// soon receives from a channel, or fails.
func soon[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

func request(t *testing.T, ctx context.Context, method, url string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// do sends a request and reads the whole response.
func do(t *testing.T, c *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: body: %v", resp.Status, err)
	}
	return resp, string(b)
}

// TestServerSentEvents: the backend says event 2 only when the client has
// event 1, so that a gateway that holds it back never ends.
func TestServerSentEvents(t *testing.T) {
	got := make(chan struct{})
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-got:
			case <-r.Context().Done():
				return
			}
		}
	}))).start(t)
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		resp, err := c.Get(base + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			event, err := lines.ReadString('\n')
			if err == nil {
				_, err = lines.ReadString('\n')
			}
			if want := fmt.Sprintf("data: %d\n", i); err != nil || event != want {
				t.Fatalf("read %q, %v, want %q", event, err, want)
			}
			select {
			case got <- struct{}{}:
			case <-time.After(patience):
				t.Fatal("the backend is gone")
			}
		}
		if _, err := lines.ReadByte(); err != io.EOF {
			t.Errorf("end: %v", err)
		}
	})
}

// TestTrailers sends trailers behind a body of unknown length, and gets them
// back as response trailers.
func TestTrailers(t *testing.T) {
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %d %v", b, r.ContentLength, err)
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", "back "+r.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "yes")
	}))).start(t)
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		r := request(t, t.Context(), "POST", base+"/", io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo")))
		r.Header.Set("TE", "trailers")
		r.Trailer = http.Header{"X-Sum": {"42"}}
		resp, body := do(t, c.Client, r)
		if want := "hello -1 <nil>"; resp.StatusCode != 200 || body != want {
			t.Errorf("%s %q, want %q", resp.Status, body, want)
		}
		if s, u := resp.Trailer.Get("X-Sum"), resp.Trailer.Get("X-Unannounced"); s != "back 42" || u != "yes" {
			t.Errorf("trailers %v", resp.Trailer)
		}
	})
}

// countedReader tells whether a body was asked for.
type countedReader struct {
	io.Reader
	reads atomic.Int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	c.reads.Add(1)
	return c.Reader.Read(p)
}

// TestExpectContinue: the backend decides whether the client sends its body
// (RFC 9110, 10.1.1).
func TestExpectContinue(t *testing.T) {
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status, err := strconv.Atoi(r.URL.Path[1:]); err == nil {
			w.WriteHeader(status)
			return
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s", b)
	}))).start(t)
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		for _, tt := range []struct {
			path   string
			status int
		}{{"/take", 200}, {"/417", 417}, {"/413", 413}} {
			continued := false
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
			body := &countedReader{Reader: strings.NewReader("hello")}
			r := request(t, ctx, "POST", base+tt.path, body)
			r.ContentLength = 5
			r.Header.Set("Expect", "100-continue")
			resp, text := do(t, c.Client, r)
			taken := tt.status == 200
			if resp.StatusCode != tt.status || continued != taken || (body.reads.Load() > 0) != taken || taken && text != "hello" {
				t.Errorf("%s: %s %q, continue %v, body read %d times", tt.path, resp.Status, text, continued, body.reads.Load())
			}
		}
	}, "h1", "h2", "h1 plain", "h2c")
}

func TestEarlyHints(t *testing.T) {
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Link", "</b.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		fmt.Fprint(w, "done")
	}))).start(t)
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		var hints []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
				return nil
			},
		})
		resp, body := do(t, c.Client, request(t, ctx, "GET", base+"/", nil))
		const want = "103 </a.css>; rel=preload|103 </b.css>; rel=preload"
		if got := strings.Join(hints, "|"); got != want || body != "done" || resp.Header.Get("Link") != "" {
			t.Errorf("hints %q, then %s %q %v", got, resp.Status, body, resp.Header)
		}
	}, "h1", "h2", "h1 plain", "h2c")
}

func TestHead(t *testing.T) {
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "12345")
		w.Header().Set("X-Method", r.Method)
	}))).start(t)
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		for range 2 { // the second on the same connection
			resp, body := do(t, c.Client, request(t, t.Context(), "HEAD", base+"/", nil))
			if resp.StatusCode != 200 || resp.Header.Get("Content-Length") != "12345" || resp.Header.Get("X-Method") != "HEAD" || body != "" {
				t.Errorf("%s %v %q", resp.Status, resp.Header, body)
			}
		}
	})
}

// TestClientAbort: a client that gives up ends the backend's request, before
// its head and within its body.
func TestClientAbort(t *testing.T) {
	started, ended := make(chan struct{}), make(chan error, 1)
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			fmt.Fprint(w, "begin")
			w.(http.Flusher).Flush()
		}
		started <- struct{}{}
		select {
		case <-r.Context().Done():
			ended <- nil
		case <-time.After(patience):
			ended <- fmt.Errorf("the request went on")
		}
	}))).start(t)
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		for _, path := range []string{"/head", "/body"} {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			failed := make(chan error, 1)
			r := request(t, ctx, "GET", base+path, nil)
			go func() {
				resp, err := c.Do(r)
				if err == nil {
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				failed <- err
			}()
			soon(t, "request at the backend", started)
			cancel()
			if err := soon(t, "client", failed); err == nil {
				t.Errorf("%s: the client saw a whole response", path)
			}
			if err := soon(t, "end at the backend", ended); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
}

// memory reads a size in bytes of /proc/<pid>/status.
func (g *gateway) memory(t *testing.T, field string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		t.Skip("no /proc")
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no %s", field)
	return 0
}

// TestLargeBodies sends 20 MiB each way, with and without a length; the
// gateway's peak of memory stays near where it began.
func TestLargeBodies(t *testing.T) {
	data := make([]byte, 20<<20)
	_, _ = rand.Read(data)
	sum := sha256.Sum256(data)
	want := hex.EncodeToString(sum[:])
	g := newGateway(t, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			if r.URL.Path == "/known" {
				w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			}
			_, _ = w.Write(data)
			return
		}
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		_ = json.NewEncoder(w).Encode([]any{n, r.ContentLength, hex.EncodeToString(h.Sum(nil)), err == nil})
	}))).start(t)
	before := g.memory(t, "VmRSS")
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		for _, path := range []string{"/known", "/chunked"} {
			resp, err := c.Get(base + path)
			if err != nil {
				t.Fatal(err)
			}
			h := sha256.New()
			n, err := io.Copy(h, resp.Body)
			_ = resp.Body.Close()
			if got := hex.EncodeToString(h.Sum(nil)); err != nil || got != want || (path == "/known") != (resp.ContentLength == n) {
				t.Errorf("down %s: %d bytes of %d, %v", path, n, resp.ContentLength, err)
			}
			r := request(t, t.Context(), "POST", base+path, io.MultiReader(strings.NewReader(string(data[:1])), strings.NewReader(string(data[1:]))))
			length := int64(-1)
			if path == "/known" {
				length = int64(len(data))
				r.ContentLength = length
			}
			answer := fmt.Sprintf("[%d,%d,%q,true]\n", len(data), length, want)
			if resp, body := do(t, c.Client, r); body != answer {
				t.Errorf("up %s: %s %q, want %q", path, resp.Status, body, answer)
			}
		}
	})
	if grown := g.memory(t, "VmHWM") - before; grown > 64<<20 {
		t.Errorf("the gateway's memory grew by %d MiB", grown>>20)
	}
}

// TestTotalTimeout: the service's limit on the whole request ends in a 504.
func TestTotalTimeout(t *testing.T) {
	blocks := twin(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	g := newGateway(t, strings.ReplaceAll(blocks, " protocol =", " timeouts { total = \"300ms\" }\n protocol =")).start(t)
	g.each(t, func(t *testing.T, c protocolClient, base string) {
		resp, body := do(t, c.Client, request(t, t.Context(), "GET", base+"/", nil))
		var p problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || resp.StatusCode != 504 {
			t.Fatalf("%s %q, %v", resp.Status, body, err)
		}
		wantProblem(t, resp, body, 504, strings.TrimPrefix(p.Type, "urn:sidegate:problem:"))
	})
}
