package e2e

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// partsOf reads a response of several parts: where each stands, and its bytes.
func partsOf(t *testing.T, resp *http.Response, body string) (places []string, texts []string) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		t.Fatalf("%s, %v", resp.Status, resp.Header)
	}
	m := multipart.NewReader(strings.NewReader(body), params["boundary"])
	for {
		p, err := m.NextPart()
		if err == io.EOF {
			return places, texts
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil || p.Header.Get("Content-Type") != "text/x; charset=utf-8" {
			t.Fatal(err, p.Header)
		}
		places, texts = append(places, p.Header.Get("Content-Range")), append(texts, string(b))
	}
}

// stored waits until what was fetched just now is stored.
func (c protocolClient) stored(t *testing.T, url string) {
	t.Helper()
	eventually(t, "all of it is stored", func() error {
		if resp, _ := send(t, c, url, "Cache-Control: only-if-cached", "Accept-Encoding: identity"); resp.StatusCode != 200 {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	})
}

// TestCacheParts: parts of what is stored, and of what isn't yet, over each
// protocol: RFC 9110, 14.2 and 15.3.7.
func TestCacheParts(t *testing.T) {
	text := ordersText(4000)
	var mu sync.Mutex
	asked := map[string][]string{} // Range, of each request
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.RequestURI()] = append(asked[r.URL.RequestURI()], r.Header.Get("Range"))
		mu.Unlock()
		body := text
		if strings.HasPrefix(r.URL.Path, "/large") {
			body = strings.Repeat(text, 10)
		}
		w.Header().Set("Content-Type", "text/x; charset=utf-8")
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Cache-Control", "max-age=100")
		if strings.HasPrefix(r.URL.Path, "/private") {
			w.Header().Set("Cache-Control", "private")
		}
		if from := r.Header.Get("Range"); from != "" {
			w.Header().Set("Content-Range", "bytes 7-9/"+strconv.Itoa(len(body)))
			w.WriteHeader(206)
			body = body[7:10]
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		for len(body) > 0 {
			n := min(len(body), 30000)
			if _, err := io.WriteString(w, body[:n]); err != nil {
				return
			}
			body = body[n:]
		}
	})
	g := codedGateway(t, h, "")
	for _, c := range g.clients(t) {
		for _, service := range []string{"one", "two"} {
			t.Run(c.name+" "+service, func(t *testing.T) {
				at := c.scheme + "://coded-" + service + ".test"
				own := "?c=" + strings.ReplaceAll(c.name+service, " ", "-")
				// The first wants a part: the whole is fetched, and stored.
				resp, body := send(t, c, at+"/a"+own, "Range: bytes=1000-1999")
				if resp.StatusCode != 206 || body != text[1000:2000] || resp.Header.Get("Content-Range") != fmt.Sprintf("bytes 1000-1999/%d", len(text)) || resp.ContentLength != 1000 {
					t.Errorf("a part of what isn't stored: %s, %d bytes, %v", resp.Status, len(body), resp.Header)
				}
				c.stored(t, at+"/a"+own)
				resp, body = send(t, c, at+"/a"+own, "Range: bytes=5000-5009, 100-199,-10,150-160, 99999999-", "Accept-Encoding: gzip")
				places, texts := partsOf(t, resp, body)
				want := []string{text[5000:5010], text[100:200], text[len(text)-10:]}
				if fmt.Sprint(texts) != fmt.Sprint(want) || resp.StatusCode != 206 || resp.Header.Get("Content-Range") != "" || resp.ContentLength != int64(len(body)) ||
					places[1] != fmt.Sprintf("bytes 100-199/%d", len(text)) || resp.Header.Get("Vary") != "Accept-Encoding" || resp.Header.Get("Etag") != `"v1"` {
					t.Errorf("three parts: %s, %q at %q, %v", resp.Status, texts, places, resp.Header)
				}
				var many strings.Builder
				for i := range 17 {
					fmt.Fprintf(&many, ",%d-%d", i*200, i*200)
				}
				if resp, body = send(t, c, at+"/a"+own, "Range: bytes="+many.String()); resp.StatusCode != 200 || body != text {
					t.Errorf("17 parts: %s, %d bytes", resp.Status, len(body))
				}
				mu.Lock()
				if n := len(asked["/a"+own]); n != 1 {
					t.Errorf("%d requests to the service, want 1", n)
				}
				mu.Unlock()
				// What may be far behind is asked for as it is.
				for _, field := range []string{"bytes=-3", "bytes=2000000-2000002"} {
					if resp, body := send(t, c, at+"/far"+own, "Range: "+field); resp.StatusCode != 206 || body != text[7:10] { // as the service says
						t.Errorf("%s: %s, %d bytes, %v", field, resp.Status, len(body), resp.Header)
					}
				}
				mu.Lock()
				if got := fmt.Sprintf("%q", asked["/far"+own]); got != `["bytes=-3" "bytes=2000000-2000002"]` {
					t.Errorf("the service is asked for %s", got)
				}
				mu.Unlock()
				// What isn't stored, or is too large, is asked for as a whole once.
				for _, path := range []string{"/large", "/private"} {
					resp, body := send(t, c, at+path+own, "Range: bytes=1000-1999")
					if resp.StatusCode != 206 || body != text[1000:2000] {
						t.Errorf("%s: %s, %d bytes, %v", path, resp.Status, len(body), resp.Header)
					}
					resp, body = send(t, c, at+path+own, "Range: bytes=7-9")
					if resp.StatusCode != 206 || body != text[7:10] {
						t.Errorf("%s: %s, %d bytes, %v", path, resp.Status, len(body), resp.Header)
					}
					mu.Lock()
					if got := fmt.Sprintf("%q", asked[path+own]); got != `["" "bytes=7-9"]` {
						t.Errorf("%s: the service is asked for %s", path, got)
					}
					mu.Unlock()
				}
			})
		}
	}
}
