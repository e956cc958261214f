package ratelimit

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestSeed: the hash is SipHash-1-3. Values are those of the reference code's vectors
// for the key 00 01 … 0f and the input 00 01 …
func TestSeed(t *testing.T) {
	var key [16]byte
	for i := range key {
		key[i] = byte(i)
	}
	s := seedOf(key[:])
	for n, want := range map[int]uint64{0: 0xabac0158050fc4dc, 1: 0xc9f49bf37d57ca93} {
		in := make([]byte, n)
		for i := range in {
			in[i] = byte(i)
		}
		if got := sum(s, in); got != want {
			t.Errorf("of %d bytes: %x, want %x", n, got, want)
		}
	}
	if a, b := newSeed(), newSeed(); sum(a, "x") == sum(b, "x") {
		t.Error("two seeds are the same")
	}
}

// TestKeep: a store with the same seed goes on with the buckets, less what has come
// back meanwhile.
func TestKeep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rates")
	secret := []byte("0123456789abcdef")
	r := parse(t, "10/m", 10)
	take := func(s *Store, who string, n int) (passed int) {
		for range n {
			if s.take(s.now(), []grant{{key: mix(s.hash(who)), rate: r, cost: 1}}) < 0 {
				passed++
			}
		}
		return passed
	}
	fresh := func() *Store {
		s := NewStore(StoreConfig{Memory: 64 << 10})
		s.Seed(secret)
		s.open()
		return s
	}
	old, now := fresh(), time.Now()
	take(old, "all", 10)
	take(old, "some", 4)
	if err := old.Keep(path, now); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	next := fresh()
	if err := next.Load(path, now.Add(12*time.Second)); err != nil {
		t.Fatal(err)
	}
	if a, b, c := take(next, "all", 20), take(next, "some", 20), take(next, "new", 20); a != 2 || b != 8 || c != 10 {
		t.Errorf("%d, %d and %d passed, want 2, 8, 10", a, b, c)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("the file is there yet: ", err)
	}
	text[len(text)-6] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := next.Load(path, now); err == nil {
		t.Error("a damaged file is read")
	}
	if err := next.Load(path, now); err != nil {
		t.Error("without a file: ", err)
	}
}

func BenchmarkSeed(b *testing.B) {
	s := newSeed()
	for b.Loop() {
		sum(s, "consumer-0123456789")
	}
}
