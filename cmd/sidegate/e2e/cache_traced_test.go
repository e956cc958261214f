package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestCacheTraced: that each request has a trace of its own makes no answer one for
// this request alone.
func TestCacheTraced(t *testing.T) {
	real(t)
	var calls, traced atomic.Int32
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		if r.Header.Get("Traceparent") != "" {
			traced.Add(1)
		}
		<-release
		w.Header().Set("Cache-Control", "max-age=100")
		fmt.Fprint(w, "a")
	}))
	t.Cleanup(s.Close)
	g := newGateway(t, tracingBlock(newCollector(t), "cache", 0.5)+fmt.Sprintf(`
service "origin" { instances = [%q] }
route "traced" {
  hosts   = ["cache.test"]
  service = "origin"
  cache {}
}
`, s.Listener.Addr()))
	g.start(t)
	client := plainClient(g)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := fetch(client, "http://cache.test/a"); err != nil {
				t.Error(err)
			}
		})
	}
	// All have arrived when they wait for the service or for each other.
	eventually(t, "20 requests under way", func() error {
		text, err := g.get("/metrics")
		if err == nil && !strings.Contains(text, `sidegate_requests_in_flight{listener="http"} 20`) {
			err = fmt.Errorf("some aren't")
		}
		return err
	})
	close(release)
	all.Wait()
	if _, err := fetch(client, "http://cache.test/a"); err != nil {
		t.Error(err)
	}
	if calls.Load() != 1 || traced.Load() != 1 {
		t.Errorf("the service was asked %d times, %d of them with a traceparent", calls.Load(), traced.Load())
	}
}
