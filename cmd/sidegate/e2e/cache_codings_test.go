package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// deflated is text in a coding, as a service has it.
func deflated(t *testing.T, coding, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch coding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "br":
		w = brotli.NewWriter(&b)
	default:
		enc, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = enc
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// codedService has text below /plain, in the coding that it is asked for, and below
// /packed/CODING in that, whatever it is asked for.
type codedService struct {
	text   string
	packed map[string][]byte

	mu    sync.Mutex
	calls map[string]int
	asked map[string]string // Accept-Encoding of the last one
}

func newCodedService(t *testing.T, text string) *codedService {
	t.Helper()
	s := &codedService{text: text, packed: map[string][]byte{}, calls: map[string]int{}, asked: map[string]string{}}
	for _, coding := range contentCodings {
		s.packed[coding] = deflated(t, coding, text)
	}
	return s
}

func (s *codedService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := r.URL.RequestURI()
	s.mu.Lock()
	s.calls[key]++
	s.asked[key] = r.Header.Get("Accept-Encoding")
	s.mu.Unlock()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("ETag", `"v1"`)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Cache-Control", "max-age=100")
	if cc := r.URL.Query().Get("cc"); cc != "" {
		h.Set("Cache-Control", cc)
	}
	body, coding := []byte(s.text), ""
	if name, ok := strings.CutPrefix(r.URL.Path, "/packed/"); ok {
		coding = name
	} else {
		h.Set("Vary", "Accept-Encoding")
		for _, c := range contentCodings {
			if strings.Contains(r.Header.Get("Accept-Encoding"), c) {
				coding = c
			}
		}
	}
	if coding != "" {
		body = s.packed[coding]
		h.Set("Content-Encoding", coding)
	}
	if strings.Contains(r.Header.Get("If-None-Match"), `"v1"`) {
		w.WriteHeader(304)
		return
	}
	if !r.URL.Query().Has("chunked") {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	for len(body) > 0 {
		n := min(len(body), 20000)
		_, _ = w.Write(body[:n])
		body = body[n:]
	}
}

func (s *codedService) count(uri string) (int, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[uri], s.asked[uri]
}

func codedGateway(t *testing.T, s http.Handler, more string) *gateway {
	t.Helper()
	g := newGateway(t, more+twin(t, s)+`
route "coded-one" {
  hosts   = ["coded-one.test"]
  service = "one"
  cache {}
  compress {}
}
route "coded-two" {
  hosts   = ["coded-two.test"]
  service = "two"
  cache {}
  compress {}
}`)
	return g.start(t)
}

// TestCacheCodings: an answer is fetched once, without a coding, each coding of it
// is made once, and given with its length to who takes it.
func TestCacheCodings(t *testing.T) {
	s := newCodedService(t, ordersText(3000))
	g := codedGateway(t, s, "")
	for _, c := range g.clients(t) {
		for _, service := range []string{"one", "two"} {
			for _, query := range []string{"", "&chunked"} {
				t.Run(c.name+" from "+service+query, func(t *testing.T) {
					c.codings(t, g, s, service, "/plain?c="+url.QueryEscape(c.name+service)+query)
				})
			}
		}
	}
}

func (c protocolClient) codings(t *testing.T, g *gateway, s *codedService, service, path string) {
	t.Helper()
	at := c.scheme + "://coded-" + service + ".test" + path
	made := fmt.Sprintf(`sidegate_cache_encodings_total{route="coded-%s"}`, service)
	before := g.metric(t, made)
	if resp, body := send(t, c, at, "Accept-Encoding: identity"); body != s.text || resp.Header.Get("Vary") != "Accept-Encoding" || resp.Header.Get("Etag") != `"v1"` {
		t.Fatalf("the first: %d bytes, %v", len(body), resp.Header)
	}
	c.stored(t, at)
	for range 3 {
		for _, coding := range append(contentCodings, "identity") {
			resp, body := send(t, c, at, "Accept-Encoding: "+coding)
			length := resp.ContentLength
			got, err := io.ReadAll(inflate(t, coding, strings.NewReader(body)))
			if err != nil || string(got) != s.text {
				t.Fatalf("%s: %d bytes, in %d: %v", coding, len(got), len(body), err)
			}
			wantTag, wantCoding := `W/"v1"`, coding
			if coding == "identity" {
				wantTag, wantCoding = `"v1"`, ""
			} else if len(body) > len(s.text)/3 {
				t.Errorf("%s: %d bytes of %d", coding, len(body), len(s.text))
			}
			h := resp.Header
			if h.Get("Content-Encoding") != wantCoding || h.Get("Etag") != wantTag || h.Get("Vary") != "Accept-Encoding" || length != int64(len(body)) || h.Get("Age") == "" {
				t.Errorf("%s: %d bytes, Content-Length %d, %v", coding, len(body), length, h)
			}
			c.conditions(t, at, coding, wantTag, int64(len(body)))
		}
	}
	if n := g.metric(t, made) - before; n != int64(len(contentCodings)) {
		t.Errorf("%d codings were made, want %d", n, len(contentCodings))
	}
	if n, asked := s.count(path); n != 1 || asked != "identity" {
		t.Errorf("%d requests to the service, Accept-Encoding %q, want one for identity", n, asked)
	}
}

// conditions: what a client does that has the answer in a coding.
func (c protocolClient) conditions(t *testing.T, at, coding, tag string, size int64) {
	t.Helper()
	ask := "Accept-Encoding: " + coding
	if resp, _ := send(t, c, at, ask, "If-None-Match: "+tag); resp.StatusCode != 304 || resp.Header.Get("Etag") != tag || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%s, If-None-Match: %s, %v", coding, resp.Status, resp.Header)
	}
	resp, _ := sendWith(t, c, request(t, context.Background(), "HEAD", at, nil), ask)
	if resp.StatusCode != 200 || resp.ContentLength != size || resp.Header.Get("Etag") != tag {
		t.Errorf("%s, HEAD: %s, %v, want %d bytes", coding, resp.Status, resp.Header, size)
	}
	// Ranges are of what has no coding (RFC 9110, 14.2), and of what a client has
	// byte by byte only.
	resp, body := send(t, c, at, ask, "Range: bytes=10-19")
	if resp.StatusCode != 206 || len(body) != 10 || resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Etag") != `"v1"` || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%s, Range: %s, %d bytes, %v", coding, resp.Status, len(body), resp.Header)
	}
	want := 200
	if coding == "identity" {
		want = 206
	}
	if resp, _ := send(t, c, at, ask, "Range: bytes=10-19", "If-Range: "+tag); resp.StatusCode != want {
		t.Errorf("%s, If-Range: %s, want %d", coding, resp.Status, want)
	}
}

// TestCacheCodedService: what a service has coded, whatever it is asked for, is kept as it
// came for those who take it, and decoded for the others.
func TestCacheCodedService(t *testing.T) {
	s := newCodedService(t, ordersText(3000))
	g := codedGateway(t, s, "")
	for _, c := range g.clients(t) {
		for _, packed := range contentCodings {
			for _, first := range []string{"identity", packed} {
				t.Run(c.name+" "+packed+", first "+first, func(t *testing.T) {
					path := "/packed/" + packed + "?c=" + url.QueryEscape(c.name) + "&first=" + first
					at := c.scheme + "://coded-one.test" + path
					for _, coding := range []string{first, "identity", "zstd", "br", "gzip", "identity", packed} {
						resp, body := send(t, c, at, "Accept-Encoding: "+coding)
						got, err := io.ReadAll(inflate(t, coding, strings.NewReader(body)))
						if err != nil || string(got) != s.text || resp.Header.Get("Vary") != "Accept-Encoding" || resp.Header.Get("Etag") != `W/"v1"` {
							t.Fatalf("%s: %d bytes, in %d: %v, %v", coding, len(got), len(body), err, resp.Header)
						}
						if coding == packed && resp.Header.Get("Age") != "" && body != string(s.packed[packed]) {
							t.Errorf("%s isn't as it came", coding)
						}
						if resp, _ := send(t, c, at, "Accept-Encoding: "+coding, `If-None-Match: W/"v1"`); resp.StatusCode != 304 || resp.Header.Get("Etag") != `W/"v1"` {
							t.Errorf("%s, If-None-Match: %s, %v", coding, resp.Status, resp.Header)
						}
						// Those of the service's bytes aren't those of ours.
						if resp, body := send(t, c, at, "Accept-Encoding: "+coding, "Range: bytes=0-9", `If-Range: "v1"`); resp.StatusCode != 200 {
							t.Errorf("%s, If-Range: %s, %q", coding, resp.Status, body)
						}
					}
					if resp, _ := send(t, c, at, "Accept-Encoding: br", "Cache-Control: no-cache"); resp.StatusCode != 200 || resp.Header.Get("Etag") != `W/"v1"` || resp.Header.Get("Cache-Status") == "" {
						t.Errorf("validated: %s, %v", resp.Status, resp.Header)
					}
					if n, _ := s.count(path); n != 2 {
						t.Errorf("%d requests to the service, want 2", n)
					}
				})
			}
		}
	}
	c := g.clients(t)[0]
	// What mustn't be transformed stays as it is, for those who take it.
	at := "https://coded-one.test/packed/gzip?cc=max-age%3D100,no-transform"
	for range 2 {
		if resp, body := send(t, c, at, "Accept-Encoding: gzip, br"); resp.Header.Get("Content-Encoding") != "gzip" || body != string(s.packed["gzip"]) || resp.Header.Get("Etag") != `"v1"` {
			t.Errorf("no-transform: %v", resp.Header)
		}
	}
	if resp, _ := send(t, c, "https://coded-one.test/plain?cc=max-age%3D100,no-transform", "Accept-Encoding: br"); resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("no-transform is encoded: %v", resp.Header)
	}
	if resp, _ := send(t, c, "https://coded-one.test/plain", "Accept-Encoding: br", "Sec-Fetch-Site: cross-site", "Cookie: a=b"); resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("another site's page gets %v", resp.Header)
	}
	// What isn't as it says is broken off, and not stored.
	s.packed["br"] = s.packed["br"][:len(s.packed["br"])/2]
	resp, err := c.Do(withFields(request(t, context.Background(), "GET", "https://coded-one.test/packed/br?half", nil), "Accept-Encoding", "identity"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("half an answer: %d bytes, and no error", len(b))
	}
	_ = resp.Body.Close()
}

func withFields(r *http.Request, pairs ...string) *http.Request {
	for i := 0; i < len(pairs); i += 2 {
		r.Header.Set(pairs[i], pairs[i+1])
	}
	return r
}

// TestCacheCodingsForgotten: codings go with their answer, and new ones are made of
// the next; all together take no more memory than there is.
func TestCacheCodingsForgotten(t *testing.T) {
	var mu sync.Mutex
	text := ordersText(500)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=100")
		fmt.Fprint(w, text, r.URL.Path)
	})
	g := codedGateway(t, h, "cache {\n  memory = \"1MiB\"\n}\n")
	c := g.clients(t)[3]
	get := func(path, coding string) string {
		t.Helper()
		_, body := send(t, c, "http://coded-one.test"+path, "Accept-Encoding: "+coding)
		b, err := io.ReadAll(inflate(t, coding, strings.NewReader(body)))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	dir := g.config()[:len(g.config())-len("/sidegate.hcl")]
	for _, change := range []func(){
		func() {
			if out, code := run(t, "cache", "purge", "http://coded-one.test/a", "-config", dir); code != 0 || !strings.Contains(out, "1 answer") {
				t.Errorf("purge: exit %d, %s", code, out)
			}
		},
		func() {
			sendWith(t, c, request(t, context.Background(), "PUT", "http://coded-one.test/a", nil))
		},
		func() { send(t, c, "http://coded-one.test/a", "Cache-Control: no-cache") },
	} {
		old := text + "/a"
		for range 2 {
			for _, coding := range contentCodings {
				if got := get("/a", coding); got != old {
					t.Errorf("%s: %d bytes, want %d", coding, len(got), len(old))
				}
			}
		}
		mu.Lock()
		text += "more\n"
		mu.Unlock()
		change()
		for _, coding := range contentCodings {
			if got := get("/a", coding); got != text+"/a" {
				t.Errorf("%s: %d bytes after the change, want %d", coding, len(got), len(text)+2)
			}
		}
	}
	for i := range 100 {
		for _, coding := range contentCodings {
			get(fmt.Sprintf("/%d", i), coding)
		}
		if n := g.metric(t, "sidegate_cache_memory_bytes"); n > 1<<20 {
			t.Fatalf("%d bytes after %d answers", n, i+1)
		}
	}
	if n := g.metric(t, "sidegate_compress_memory_bytes"); n != 0 {
		t.Errorf("encoders still hold %d bytes", n)
	}
}

// TestCacheCodingsSurge: a thousand clients that want the same, which isn't stored
// yet, in a coding, are one request to the service, and that coding is made once.
func TestCacheCodingsSurge(t *testing.T) {
	text := ordersText(3000)
	var mu sync.Mutex
	calls := 0
	waiting := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		calls++
		mu.Unlock()
		<-waiting
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Cache-Control", "max-age=100")
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		fmt.Fprint(w, text)
	})
	g := codedGateway(t, h, "")
	c := plainClient(g)
	const clients = 1000
	errs := make(chan error, clients)
	for range clients {
		go func() {
			r, _ := http.NewRequest("GET", "http://coded-one.test/surge", nil)
			r.Header.Set("Accept-Encoding", "gzip")
			resp, err := c.Do(r)
			if err != nil {
				errs <- err
				return
			}
			defer resp.Body.Close()
			var d *gzip.Reader
			if d, err = gzip.NewReader(resp.Body); err == nil {
				var b []byte
				if b, err = io.ReadAll(d); err == nil && string(b) != text {
					err = fmt.Errorf("%d bytes", len(b))
				}
			}
			errs <- err
		}()
	}
	eventually(t, "one request", func() error {
		mu.Lock()
		defer mu.Unlock()
		if calls != 1 {
			return fmt.Errorf("%d", calls)
		}
		return nil
	})
	close(waiting)
	for range clients {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	made := g.metric(t, `sidegate_cache_encodings_total{route="coded-one"}`)
	if calls != 1 || made != 1 {
		t.Errorf("%d requests to the service, %d codings made, want 1 and 1", calls, made)
	}
}

// TestCacheCodingsDisk: what is on disk is encoded once, too, if it isn't too long for
// that, and what was decoded is known as such after a restart.
func TestCacheCodingsDisk(t *testing.T) {
	s := newCodedService(t, ordersText(12000))
	g := codedGateway(t, s, "cache {\n  memory = \"4MiB\"\n  disk   = \"100MiB\"\n}\n")
	c := g.clients(t)[3]
	get := func(path string) *http.Response {
		t.Helper()
		resp, body := send(t, c, "http://coded-one.test"+path, "Accept-Encoding: gzip")
		got, err := io.ReadAll(inflate(t, "gzip", strings.NewReader(body)))
		if err != nil || string(got) != s.text {
			t.Fatalf("%s: %d bytes, in %d: %v", path, len(got), len(body), err)
		}
		return resp
	}
	if resp, body := send(t, c, "http://coded-one.test/plain", "Accept-Encoding: identity"); body != s.text {
		t.Fatalf("the first: %d bytes, %v", len(body), resp.Header)
	}
	get("/packed/br")
	c.stored(t, "http://coded-one.test/plain")
	eventually(t, "both are in files", func() error {
		if n := len(g.cacheFiles(t)); n != 2 {
			return fmt.Errorf("%d files", n)
		}
		return nil
	})
	for range 3 {
		if resp := get("/plain"); resp.ContentLength < 0 || resp.Header.Get("Etag") != `W/"v1"` {
			t.Errorf("from disk: %v", resp.Header)
		}
	}
	if n := g.metric(t, `sidegate_cache_encodings_total{route="coded-one"}`); n != 1 {
		t.Errorf("%d codings were made, want 1", n)
	}
	g.stop(syscall.SIGTERM)
	g.start(t)
	c = g.clients(t)[3]
	for _, path := range []string{"/plain", "/packed/br"} {
		eventually(t, "the index is read", func() error {
			if resp := get(path); resp.Header.Get("Age") == "" {
				return fmt.Errorf("%v", resp.Header)
			}
			return nil
		})
		if n, _ := s.count(path); n != 1 {
			t.Errorf("%s: %d requests to the service, want 1", path, n)
		}
	}
	resp, _ := send(t, c, "http://coded-one.test/packed/br", "Cache-Control: no-cache")
	if n, _ := s.count("/packed/br"); resp.Header.Get("Etag") != `W/"v1"` || n != 2 {
		t.Errorf("validated after a restart: %d requests, %v", n, resp.Header)
	}
}
