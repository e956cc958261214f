package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestCacheMemory: what small answers take of the gateway's memory is at most half more
// than their bodies; SIDEGATE_ANSWERS says how many (a million is the promise).
func TestCacheMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	n, _ := strconv.Atoi(os.Getenv("SIDEGATE_ANSWERS"))
	if n == 0 {
		n = 60_000
	}
	g := newGateway(t, fmt.Sprintf(`
cache { memory = "%dMiB" }
service "origin" { instances = [%q] }
route "plain" {
  hosts   = ["memory.test"]
  service = "origin"
  cache {}
}
`, 64+n*1600>>20, smallOrigin(t)))
	g.start(t)
	c := plainClient(g)
	_, _ = fetch(c, "http://memory.test/first")
	time.Sleep(100 * time.Millisecond) // what starting leaves behind
	empty := g.resident(t)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				resp, err := c.Get(fmt.Sprintf("http://memory.test/items/%07d", i))
				if err != nil {
					t.Error(err)
					return
				}
				b := make([]byte, 2000)
				m := 0
				for err == nil {
					var k int
					k, err = resp.Body.Read(b[m:])
					m += k
				}
				_ = resp.Body.Close()
				if m != 1024 {
					t.Errorf("%d bytes", m)
				}
			}
		})
	}
	wg.Wait()
	out, _ := run(t, "cache", "stats", "-config", g.config())
	if !strings.Contains(out, fmt.Sprintf("%d answers", n+1)) {
		t.Fatalf("not all are stored: %s", out)
	}
	bound := int64(n) * 1024 * 3 / 2
	if n < 200_000 {
		bound += 100 << 20 // what the collector leaves of garbage is not in proportion
	}
	var last int64
	eventually(t, "the memory", func() error {
		if last = g.resident(t) - empty; last > bound {
			return fmt.Errorf("%d bytes for each answer of 1 KiB, beside %d MiB when empty", last/int64(n), empty>>20)
		}
		return nil
	})
	t.Logf("%d bytes for each of %d answers of 1 KiB: %s", last/int64(n), n, strings.TrimSpace(out))
}

// resident is the memory of the process that isn't the file's.
func (g *gateway) resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

func smallOrigin(t *testing.T) string {
	body := []byte(strings.Repeat("x", 1024))
	return originOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "max-age=1000")
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(body)
	}))
}

func originOf(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}
