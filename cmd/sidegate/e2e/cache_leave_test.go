package e2e

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCacheLeave: the client whose request fetches an answer has all that it wanted,
// or leaves, while the service still sends: the others get it whole.
func TestCacheLeave(t *testing.T) {
	body := strings.Repeat("0123456789abcdef", 8000)
	var ways sync.Map // by path: closed when the service goes on
	on := func(path string) chan struct{} {
		c, _ := ways.LoadOrStore(path, make(chan struct{}))
		return c.(chan struct{})
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=100")
		w.Header().Set("ETag", `"a"`)
		_, _ = io.WriteString(w, body[:64000])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-on(r.URL.Path):
		case <-r.Context().Done():
			return
		}
		_, _ = io.WriteString(w, body[64000:])
	})
	g := newGateway(t, twin(t, h)+`
route "cached-one" {
  hosts   = ["cached-one.test"]
  service = "one"
  cache {}
}
route "cached-two" {
  hosts   = ["cached-two.test"]
  service = "two"
  cache {}
}`)
	g.start(t)
	for _, c := range g.clients(t) {
		for _, service := range []string{"one", "two"} {
			for _, how := range []string{"it has it", "it leaves"} {
				t.Run(c.name+" "+service+" "+how, func(t *testing.T) {
					t.Parallel()
					path := "/" + strings.NewReplacer(" ", "-").Replace(c.name+service+how)
					url := c.scheme + "://cached-" + service + ".test" + path
					r, _ := http.NewRequest("GET", url, nil)
					if how == "it has it" {
						r.Header.Set("If-None-Match", `"a"`)
					}
					resp, err := c.Do(r)
					if err != nil {
						t.Fatal(err)
					}
					other, err := c.Client.Get(url)
					if err != nil {
						t.Fatal(err)
					}
					defer other.Body.Close()
					head := make([]byte, 64000)
					if _, err := io.ReadFull(other.Body, head); err != nil {
						t.Fatal(err)
					}
					_ = resp.Body.Close() // for HTTP/1.1 the connection, for the others the stream
					// Whoever looks after clients that have left does so four times a second.
					select {
					case <-time.After(time.Second):
					case <-t.Context().Done():
					}
					close(on(path))
					rest, err := io.ReadAll(other.Body)
					if string(head)+string(rest) != body {
						t.Errorf("the other got %d of %d bytes, %v", len(head)+len(rest), len(body), err)
					}
				})
			}
		}
	}
}
