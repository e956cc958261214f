package exchange

import (
	"net/http"
	"testing"
)

func TestLookupSpellings(t *testing.T) {
	for id := Other + 1; id < lastID; id++ {
		for _, name := range []string{names[id], http.CanonicalHeaderKey(names[id]), string(upper(names[id]))} {
			if got := Lookup(name); got != id {
				t.Errorf("Lookup(%q) = %d, want %d", name, got, id)
			}
		}
	}
}

func upper(s string) []byte {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 0x20
		}
	}
	return b
}

func BenchmarkLookup(b *testing.B) {
	list := []string{"Host", "User-Agent", "Accept-Encoding", "X-Custom-Field", "content-type"}
	for b.Loop() {
		for _, n := range list {
			Lookup(n)
		}
	}
}
