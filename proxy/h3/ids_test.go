package h3

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/net/ipv4"
)

func TestIDsTellTheirGeneration(t *testing.T) {
	s := NewSecrets()
	next, err := ParseSecrets(s.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	stranger := NewSecrets()
	seen := map[string]bool{}
	for range 1000 {
		id, err := newIDs(s).GenerateConnectionID()
		if err != nil || id.Len() != idLen {
			t.Fatalf("id of %d bytes, %v", id.Len(), err)
		}
		seen[string(id.Bytes())] = true
		theirs := reader{ids: newIDs(next)}
		if g, ok := theirs.of(id.Bytes()); !ok || g != s.generation {
			t.Fatalf("with the same keys: generation %x, %v, want %x", g, ok, s.generation)
		}
		others := reader{ids: newIDs(stranger)}
		if g, _ := others.of(id.Bytes()); g == s.generation {
			t.Fatal("the generation shows without the key")
		}
		if bytes.Contains(id.Bytes(), []byte{byte(s.generation >> 24), byte(s.generation >> 16), byte(s.generation >> 8), byte(s.generation)}) {
			t.Fatal("the generation isn't hidden")
		}
	}
	if len(seen) != 1000 {
		t.Errorf("of 1000 ids %d are different", len(seen))
	}
	if s.generation == next.generation {
		t.Error("two processes of one generation")
	}
}

func TestDestination(t *testing.T) {
	id := []byte("0123456789")
	long := append([]byte{0xc0, 0, 0, 0, 1, idLen}, id...)
	for _, tt := range []struct {
		name   string
		packet []byte
		id     string
		long   bool
	}{
		{"empty", nil, "", false},
		{"short header", append([]byte{0x40}, id...), string(id), false},
		{"short header, too short", append([]byte{0x40}, id[1:]...), "", false},
		{"long header", long, string(id), true},
		{"long header, more follows", append(long[:len(long):len(long)], 1, 2, 3), string(id), true},
		{"long header, id cut off", long[:len(long)-1], "", true},
		{"long header, cut off", long[:5], "", true},
		{"long header, id of a version to come", append([]byte{0xc0, 0, 0, 0, 9, 255}, make([]byte, 255)...), string(make([]byte, 255)), true},
		{"long header without an id", []byte{0xc0, 0, 0, 0, 1, 0}, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if id, long := destination(tt.packet); string(id) != tt.id || long != tt.long {
				t.Errorf("destination(%x) = %x, %v, want %x, %v", tt.packet, id, long, tt.id, tt.long)
			}
		})
	}
}

func FuzzDestination(f *testing.F) {
	f.Add([]byte{0xc0, 0, 0, 0, 1, 3, 1, 2, 3})
	f.Add(append([]byte{0x40}, make([]byte, idLen)...))
	r := reader{ids: newIDs(NewSecrets())}
	f.Fuzz(func(t *testing.T, packet []byte) {
		id, _ := destination(packet)
		if !bytes.Contains(packet, id) {
			t.Errorf("destination(%x) = %x", packet, id)
		}
		was := bytes.Clone(packet)
		if _, ok := r.of(id); ok != (len(id) == idLen) || !bytes.Equal(packet, was) {
			t.Errorf("of(%x): %v, the packet changed: %v", id, ok, !bytes.Equal(packet, was))
		}
	})
}

func newMessage() *ipv4.Message {
	return &ipv4.Message{Buffers: [][]byte{make([]byte, 1452)}, OOB: make([]byte, 128)}
}

func TestMessages(t *testing.T) {
	for _, from := range []string{"192.0.2.1:443", "[::ffff:192.0.2.1]:1", "[2001:db8::1]:65535", "[fe80::1%eth0]:9"} {
		for _, size := range []int{1, 1200, 1452} {
			m, got := newMessage(), newMessage()
			m.Addr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
			m.N, m.NN = size, 40
			m.Buffers[0][size-1], m.OOB[39] = 7, 8
			b, ok := appendMessage(nil, m)
			if !ok || len(b) > linkMax {
				t.Fatalf("%s: %v, %d bytes", from, ok, len(b))
			}
			if parseMessage(b, got) != linkPacket || got.Addr.String() != m.Addr.String() || got.N != m.N || got.NN != m.NN ||
				!bytes.Equal(got.Buffers[0][:got.N], m.Buffers[0][:m.N]) || !bytes.Equal(got.OOB[:got.NN], m.OOB[:m.NN]) {
				t.Errorf("%s, %d bytes: %+v, want %+v", from, size, got, m)
			}
		}
	}
}

func FuzzMessage(f *testing.F) {
	m := newMessage()
	m.Addr, m.N, m.NN = &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, 30, 20
	b, _ := appendMessage(nil, m)
	f.Add(b)
	f.Add([]byte{linkTake})
	f.Add([]byte{linkPacket, 255, 255, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		parseYours(b)
		m := newMessage()
		if parseMessage(b, m) != linkPacket {
			return
		}
		again, ok := appendMessage(nil, m)
		got := newMessage()
		if !ok || parseMessage(again, got) != linkPacket || got.Addr.String() != m.Addr.String() || got.N != m.N || got.NN != m.NN {
			t.Errorf("%x: %+v, and then %x: %+v", b, m, again, got)
		}
	})
}

func TestOpenSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "quic.secrets")
	s, err := OpenSecrets(file)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", st.Mode(), err)
	}
	again, err := OpenSecrets(file)
	if err != nil || !bytes.Equal(again.Bytes(), s.Bytes()) {
		t.Errorf("opened again: %v, the same: %v", err, bytes.Equal(again.Bytes(), s.Bytes()))
	}
	if err := s.keep(file); !os.IsExist(err) {
		t.Errorf("over one that is there: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	for _, b := range []string{"", "nonsense", string(s.Bytes()[1:]), string(s.Bytes()) + "x"} {
		if err := os.WriteFile(file, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSecrets(file); err == nil {
			t.Errorf("%q is taken", b)
		}
	}
	if _, err := OpenSecrets(filepath.Join(file, "x")); err == nil {
		t.Error("a directory that is a file is fine")
	}
}
