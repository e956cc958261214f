package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

var contentCodings = []string{"zstd", "br", "gzip"}

// inflate reads what is coded so.
func inflate(t *testing.T, coding string, r io.Reader) io.Reader {
	t.Helper()
	switch coding {
	case "zstd":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	case "br":
		return brotli.NewReader(r)
	case "gzip":
		d, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return d
	default:
		return r
	}
}

// ordersText is n lines of JSON, no two alike.
func ordersText(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"id":%d,"sku":"AB-%04d","customer":"acme","count":%d}`+"\n", i*7919, i*31%10000, i%17)
	}
	return b.String()
}

// compressible answers with text of each kind; each event waits for leave.
func compressible(text string, leave <-chan bool) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", `"v1"`)
		switch {
		case r.Method == "PUT" && r.Header.Get("If-Match") != `"v1"`:
			w.WriteHeader(412)
		case strings.Contains(r.Header.Get("If-None-Match"), `"v1"`): // weakly
			w.WriteHeader(304)
		default:
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			_, _ = io.WriteString(w, text)
		}
	})
	m.HandleFunc("/chunks", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Trailer", "X-Sum")
		for s := text; s != ""; s = s[min(5000, len(s)):] {
			_, _ = io.WriteString(w, s[:min(5000, len(s))])
			_ = http.NewResponseController(w).Flush()
		}
		w.Header().Set("X-Sum", "s-1")
	})
	m.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "short")
	})
	m.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	m.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case more := <-leave:
				if !more {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	})
	return m
}

// TestCompress: over each protocol, from backends of both, in each coding.
func TestCompress(t *testing.T) {
	text := ordersText(5000)
	leave := make(chan bool)
	g := newGateway(t, "")
	var routes strings.Builder
	for _, service := range []string{"one", "two"} {
		fmt.Fprintf(&routes, `
route "packed-%[1]s" {
  hosts   = ["packed-%[1]s.test"]
  service = %[1]q
  compress { types = ["text/*", "text/event-stream", "application/json"] }
}
`, service)
	}
	g.configure(t, accessLog+twin(t, compressible(text, leave))+routes.String())
	g.start(t)
	for _, c := range g.clients(t) {
		for _, service := range []string{"one", "two"} {
			base := c.scheme + "://packed-" + service + ".test"
			for _, coding := range contentCodings {
				t.Run(c.name+" to "+service+" in "+coding, func(t *testing.T) {
					ask := []string{"Accept-Encoding: " + coding}
					for _, path := range []string{"/page", "/chunks"} {
						resp, body := send(t, c, base+path, ask...)
						got, err := io.ReadAll(inflate(t, coding, strings.NewReader(body)))
						if err != nil || string(got) != text {
							t.Errorf("%s: %d bytes of %d came, in %d: %v", path, len(got), len(text), len(body), err)
						}
						if resp.Header.Get("Content-Encoding") != coding || resp.Header.Get("Vary") != "Accept-Encoding" || len(body) > len(text)/3 {
							t.Errorf("%s: %d bytes, %v", path, len(body), resp.Header)
						}
						if sum := resp.Trailer.Get("X-Sum"); path == "/chunks" && sum != "s-1" && c.name != "h3" { // whose client gives none
							t.Errorf("the trailer is %q", sum)
						}
					}
					c.tags(t, base, coding)
					c.events(t, base, coding, leave)
					c.broken(t, base, coding)
				})
			}
			resp, body := send(t, c, base+"/short", "Accept-Encoding: br")
			if body != "short" || resp.Header.Get("Content-Encoding") != "" || resp.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("short: %q, %v", body, resp.Header)
			}
			resp, body = send(t, c, base+"/page", "Accept-Encoding: identity")
			if body != text || resp.Header.Get("Etag") != `"v1"` || resp.ContentLength != int64(len(text)) {
				t.Errorf("identity: %d bytes, %v", len(body), resp.Header)
			}
		}
	}
	n := g.metric(t, `sidegate_compress_responses_total{encoding="br",route="packed-one"}`)
	before := g.metric(t, `sidegate_compress_bytes_before_total{encoding="br",route="packed-one"}`)
	after := g.metric(t, `sidegate_compress_bytes_after_total{encoding="br",route="packed-one"}`)
	if n < 20 || before < 10*int64(len(text)) || after == 0 || after > before/3 {
		t.Errorf("%d responses, %d bytes before, %d after", n, before, after)
	}
	eventually(t, "memory given back", func() error {
		if n := g.metric(t, "sidegate_compress_memory_bytes"); n != 0 {
			return fmt.Errorf("%d bytes are taken", n)
		}
		return nil
	})
}

// tags: what a client does with the tag that it gets, and what HEAD says of it.
func (c protocolClient) tags(t *testing.T, base, coding string) {
	t.Helper()
	ask := "Accept-Encoding: " + coding
	resp, _ := sendWith(t, c, request(t, context.Background(), "HEAD", base+"/page", nil), ask)
	tag := resp.Header.Get("Etag")
	if tag != `W/"v1"` || resp.Header.Get("Content-Encoding") != coding || resp.ContentLength >= 0 {
		t.Errorf("HEAD: %d bytes, %v", resp.ContentLength, resp.Header)
	}
	if resp, _ := send(t, c, base+"/page", ask, "If-None-Match: "+tag); resp.StatusCode != 304 || resp.Header.Get("Etag") != tag || resp.Header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("If-None-Match: %s, %v", resp.Status, resp.Header)
	}
	put := func() *http.Request {
		return request(t, context.Background(), "PUT", base+"/page", strings.NewReader("{}"))
	}
	if resp, _ := sendWith(t, c, put(), ask, "If-Match: "+tag); resp.StatusCode != 200 {
		t.Errorf("If-Match: %s", resp.Status)
	}
	if resp, _ := sendWith(t, c, put(), ask, `If-Match: W/"v0"`); resp.StatusCode != 412 {
		t.Errorf("If-Match of another: %s", resp.Status)
	}
}

// events: each comes before the next is made.
func (c protocolClient) events(t *testing.T, base, coding string, leave chan<- bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := request(t, ctx, "GET", base+"/events", nil)
	r.Header.Set("Accept-Encoding", coding)
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(inflate(t, coding, resp.Body))
	for i := range 5 {
		line, err := lines.ReadString('\n')
		if want := fmt.Sprintf("data: %d\n", i); err != nil || line != want {
			t.Fatalf("event %d: %q, %v", i, line, err)
		}
		if line, err = lines.ReadString('\n'); err != nil || line != "\n" {
			t.Fatalf("event %d ends with %q, %v", i, line, err)
		}
		leave <- i < 4
	}
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("behind the events: %q, %v", rest, err)
	}
}

// broken: a body that the service breaks off is no complete one to the client.
func (c protocolClient) broken(t *testing.T, base, coding string) {
	t.Helper()
	r := request(t, t.Context(), "GET", base+"/broken", nil)
	r.Header.Set("Accept-Encoding", coding)
	resp, err := c.Do(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("a body that broke off ended well, %s with %d bytes", resp.Status, len(b))
	}
}

// TestCompressFiles: before a real nginx that serves files, and with curl, whose
// decoders are others than ours, in each protocol that it speaks.
func TestCompressFiles(t *testing.T) {
	real(t)
	text := ordersText(3000)
	dir, port := t.TempDir(), ports(t, 4)[3]
	write(t, filepath.Join(dir, "orders.json"), text)
	noise := make([]byte, 150_000)
	_, _ = rand.Read(noise) // it can't fail
	write(t, filepath.Join(dir, "noise.json"), string(noise))
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	conf := write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`
worker_processes 1; daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/err;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/c; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  types { application/json json; }
  server {
    listen 127.0.0.1:%[2]d; root %[1]s;
    location /gz/ { alias %[1]s/; gzip on; gzip_types application/json; gzip_proxied any; }
  }
}`, dir, port))
	start(t, tool(t, "nginx"), "-p", dir, "-c", conf)
	eventually(t, "nginx", func() error { return dial(port) })
	g := newGateway(t, "")
	var routes strings.Builder
	for _, coding := range contentCodings {
		fmt.Fprintf(&routes, "route %q {\n hosts = [\"%[1]s.files.test\"]\n service = \"files\"\n compress { encodings = [%[1]q] }\n}\n", coding)
	}
	g.configure(t, routes.String()+fmt.Sprintf(`
service "files" { instances = ["127.0.0.1:%d"] }
route "files" {
  hosts   = ["files.test"]
  service = "files"
  compress {}
}
`, port))
	g.start(t)
	c := g.clients(t)[1]
	const url = "https://files.test/orders.json"
	resp, _ := send(t, c, url, "Accept-Encoding: br")
	tag := resp.Header.Get("Etag")
	if !strings.HasPrefix(tag, `W/"`) || resp.Header.Get("Accept-Ranges") != "" {
		t.Errorf("a file: %v", resp.Header)
	}
	if resp, _ := send(t, c, url, "Accept-Encoding: br", "If-None-Match: "+tag); resp.StatusCode != 304 || resp.Header.Get("Etag") != tag {
		t.Errorf("If-None-Match: %s, %v", resp.Status, resp.Header)
	}
	if resp, body := send(t, c, url, "Accept-Encoding: br", "Range: bytes=10-19"); resp.StatusCode != 206 || body != text[10:20] || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("a range: %s, %q, %v", resp.Status, body, resp.Header)
	}
	if resp, _ := send(t, c, url, "Accept-Encoding: br", "Range: bytes=10-19", "If-Range: "+tag); resp.StatusCode != 200 || resp.Header.Get("Content-Encoding") != "br" {
		t.Errorf("a range of what was encoded: %s, %v", resp.Status, resp.Header)
	}
	resp, body := send(t, c, "https://files.test/gz/orders.json", "Accept-Encoding: gzip")
	if got, err := io.ReadAll(inflate(t, "gzip", strings.NewReader(body))); err != nil || string(got) != text || len(resp.Header["Content-Encoding"]) != 1 {
		t.Errorf("what the service compresses: %d bytes, %v, %v", len(got), err, resp.Header)
	}
	for _, coding := range contentCodings {
		for _, how := range [][]string{
			{"--http1.1", fmt.Sprintf("http://127.0.0.1:%d/orders.json", g.http)},
			{"--http2-prior-knowledge", fmt.Sprintf("http://127.0.0.1:%d/orders.json", g.http)},
			{"-k", "--http2", fmt.Sprintf("https://127.0.0.1:%d/orders.json", g.https)},
		} {
			args := append([]string{"-sS", "--max-time", "20", "--compressed", "-H", "Host: files.test", "-H", "Accept-Encoding: " + coding, "-w", "%{stderr}%{size_download} %{http_version}"}, how...)
			cmd := exec.Command(tool(t, "curl"), args...)
			var log bytes.Buffer
			cmd.Stderr = &log
			out, err := cmd.Output()
			if err != nil || string(out) != text {
				t.Errorf("curl %s, %s: %d bytes of %d, %v: %s", coding, how[0], len(out), len(text), err, log.String())
			}
			args[len(args)-1] = strings.Replace(args[len(args)-1], "orders", "noise", 1)
			if out, err := exec.Command(tool(t, "curl"), args...).Output(); err != nil || !bytes.Equal(out, noise) {
				t.Errorf("curl %s, %s: %d bytes of noise, %v", coding, how[0], len(out), err)
			}
			if size, _, _ := strings.Cut(log.String(), " "); len(size) >= len(fmt.Sprint(len(text))) {
				t.Errorf("curl %s, %s: %s bytes came", coding, how[0], size)
			}
		}
	}
	g.inBrowser(t, text)
}

// inBrowser: a real browser decodes each coding.
func (g *gateway) inBrowser(t *testing.T, text string) {
	t.Helper()
	b := newDevtools(t, "*.files.test").person()
	for _, coding := range contentCodings {
		b.open(fmt.Sprintf("https://%s.files.test:%d/none", coding, g.https))
		got, err := b.run("fetch('/orders.json').then(async r => r.headers.get('content-encoding') + ' ' + await r.text())")
		if err != nil || got != coding+" "+text {
			t.Errorf("the browser, %s: %.100v, %v", coding, got, err)
		}
	}
}
