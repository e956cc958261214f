//go:build !race

package cache

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// TestHeap: an answer of 1 KiB takes less than one and a half times its bytes, and the
// store knows how much, within a tenth.
func TestHeap(t *testing.T) {
	const n = 50_000
	body := strings.Repeat("x", 1024)
	s := NewStore(StoreConfig{Memory: 1 << 30})
	p := newPolicy(t, s, "")
	used := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for i := range n {
		answer(t, p, fmt.Sprintf("GET https://api.example.com/catalogue/items/%d", i), body, "Cache-Control: max-age=100", "Content-Type: text/plain; charset=utf-8", "Date: Mon, 02 Jan 2006 15:04:05 GMT")
	}
	if _, items := s.Size(); items != n {
		t.Fatalf("%d are stored", items)
	}
	with, says := used(), s.Memory()
	runtime.KeepAlive(p)
	s, p = nil, nil
	real := with - used()
	t.Logf("%d bytes for an answer of 1 KiB; the store says %d", real/n, says/n)
	if real > n*1024*3/2 {
		t.Errorf("%d bytes for an answer of 1 KiB, want %d at most", real/n, 1024*3/2)
	}
	if d := says - real; d > real/10 || d < -real/10 {
		t.Errorf("the store says that it is %d bytes, it is %d", says, real)
	}
}
