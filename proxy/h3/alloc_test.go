package h3

import (
	"net"
	"testing"

	"golang.org/x/net/ipv4"
)

// sieve is a socket with a process before, and a batch of packets of its own.
func sieve(tb testing.TB) (*socket, *route, []ipv4.Message) {
	tb.Helper()
	s := newSocket(bindLoopback(tb), nil, NewSecrets())
	tb.Cleanup(func() { _ = s.Close() })
	ms := make([]ipv4.Message, 8)
	for i := range ms {
		id, err := s.reader.GenerateConnectionID()
		if err != nil {
			tb.Fatal(err)
		}
		ms[i] = *newMessage()
		ms[i].Addr = &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}
		ms[i].N = 1 + copy(ms[i].Buffers[0][1:], id.Bytes()) + 100
		ms[i].Buffers[0][0] = 0x40
	}
	return s, &route{before: []*link{{generation: s.reader.generation + 1}}}, ms
}

// TestSiftAllocatesNothing: our own packets cost little while a process before
// drains.
func TestSiftAllocatesNothing(t *testing.T) {
	s, r, ms := sieve(t)
	if n := testing.AllocsPerRun(100, func() {
		if s.sift(r, ms) != len(ms) {
			t.Fatal("a packet of this process isn't kept")
		}
	}); n > 0 {
		t.Errorf("%v allocations for %d packets", n, len(ms))
	}
}

func BenchmarkSift(b *testing.B) {
	s, r, ms := sieve(b)
	b.ReportAllocs()
	for b.Loop() {
		s.sift(r, ms)
	}
}
