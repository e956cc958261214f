package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func v2(command, family byte, payload ...byte) string {
	b := append([]byte(nil), v2Signature...)
	b = append(b, 0x20|command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	return string(append(b, payload...))
}

var (
	ip4 = []byte{192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb}
	ip6 = append(append(netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice()...), 0x30, 0x39, 0x01, 0xbb)
)

// summed adds a checksum, off by wrong.
func summed(wrong uint32) string {
	b := []byte(v2(1, 0x11, append(append([]byte(nil), ip4...), 3, 0, 4, 0, 0, 0, 0)...))
	binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))+wrong)
	return string(b)
}

func with(base []byte, more ...byte) []byte { return append(append([]byte(nil), base...), more...) }

var cases = []struct{ name, in, src, dst, err string }{ // src "": none
	{"v1 TCP4", "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n", "192.0.2.1:12345", "198.51.100.2:443", ""},
	{"v1 TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n", "[2001:db8::1]:12345", "[2001:db8::2]:443", ""},
	{"v1 longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", ""},
	{"v1 shortest", "PROXY TCP4 1.1.1.1 1.1.1.1 0 0\r\n", "1.1.1.1:0", "1.1.1.1:0", ""},
	{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", "", "", ""},
	{"v1 UNKNOWN with more", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "", "", ""},
	{"v1 mapped address", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", "192.0.2.1:1", "192.0.2.2:2", ""},
	{"v1 family that differs", "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", "", "", "address"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", "", "", "address"},
	{"v1 port too large", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", "", "", "port"},
	{"v1 port with zero", "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "", "", "port"},
	{"v1 port with sign", "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "", "", "port"},
	{"v1 no port", "PROXY TCP4 192.0.2.1 192.0.2.2  2\r\n", "", "", "port"},
	{"v1 bare LF", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", "", "", "CR LF"},
	{"v1 CR within", "PROXY UNKNOWN \r \r\n", "", "", "CR LF"},
	{"v1 two blanks", "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "", "", "line"},
	{"v1 field too many", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", "", "", "line"},
	{"v1 lower case", "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "", "", "no header"},
	{"v1 UDP", "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "", "", "line"},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n", "", "", "too long"},
	{"v1 cut", "PROXY TCP4 192.0.2.1 192.0", "", "", "EOF"},
	{"none", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", "", "no header"},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefgh", "", "", "no header"},
	{"empty", "", "", "", "EOF"},

	{"v2 TCP4", v2(1, 0x11, ip4...), "192.0.2.1:12345", "198.51.100.2:443", ""},
	{"v2 TCP6", v2(1, 0x21, ip6...), "[2001:db8::1]:12345", "[2001:db8::2]:443", ""},
	{"v2 unix", v2(1, 0x31, make([]byte, 216)...), "", "", ""},
	{"v2 unspecified", v2(1, 0x00), "", "", ""},
	{"v2 LOCAL", v2(0, 0x00), "", "", ""},
	{"v2 LOCAL with addresses", v2(0, 0x11, ip4...), "", "", ""},
	{"v2 LOCAL with part of them", v2(0, 0x11, 1, 2), "", "", ""},
	{"v2 extensions", v2(1, 0x11, with(ip4, 0x01, 0, 2, 'h', '2', 0x04, 0, 0)...), "192.0.2.1:12345", "198.51.100.2:443", ""},
	{"v2 checksum", summed(0), "192.0.2.1:12345", "198.51.100.2:443", ""},
	{"v2 wrong checksum", summed(1), "", "", "checksum"},
	{"v2 short checksum", v2(1, 0x11, with(ip4, 3, 0, 1, 0)...), "", "", "checksum"},
	{"v2 broken extension", v2(1, 0x11, with(ip4, 1, 0)...), "", "", "extension"},
	{"v2 extension too long", v2(1, 0x11, with(ip4, 1, 0, 9, 0)...), "", "", "extension"},
	{"v2 too few bytes", v2(1, 0x21, ip4...), "", "", "bytes for addresses"},
	{"v2 datagram", v2(1, 0x12, ip4...), "", "", "transport"},
	{"v2 command", v2(2, 0x11, ip4...), "", "", "command"},
	{"v2 family", v2(1, 0x41, ip4...), "", "", "family"},
	{"v2 transport", v2(1, 0x13, ip4...), "", "", "transport"},
	{"v2 version", strings.Replace(v2(1, 0x11, ip4...), "\x21\x11", "\x31\x11", 1), "", "", "version"},
	{"v2 too long", v2(1, 0x11, make([]byte, 521)...), "", "", "header of 537 bytes"},
	{"v2 cut", v2(1, 0x11, ip4...)[:20], "", "", "EOF"},
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func TestParse(t *testing.T) {
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			for name, wrap := range map[string]func(io.Reader) io.Reader{
				"whole":        func(r io.Reader) io.Reader { return r },
				"byte by byte": iotest.OneByteReader,
			} {
				in := strings.NewReader(tt.in + "REST")
				if tt.err == "EOF" {
					in = strings.NewReader(tt.in)
				}
				src, dst, err := parse(wrap(in))
				if tt.err != "" {
					if err == nil || !strings.Contains(err.Error(), tt.err) {
						t.Errorf("%s: error = %v, want one with %q", name, err, tt.err)
					}
					continue
				}
				if err != nil || text(src) != tt.src || text(dst) != tt.dst {
					t.Errorf("%s: %v, %v, %v, want %s, %s", name, src, dst, err, tt.src, tt.dst)
				}
				if rest, _ := io.ReadAll(in); string(rest) != "REST" {
					t.Errorf("%s: left %q on the connection, want REST", name, rest)
				}
			}
		})
	}
}

// pipe is a connection whose other side has sent b.
func pipe(t *testing.T, b string) (mine, other net.Conn) {
	t.Helper()
	mine, other = net.Pipe()
	t.Cleanup(func() { _, _ = mine.Close(), other.Close() })
	go func() { _, _ = io.WriteString(other, b) }()
	return mine, other
}

func TestReadLeavesWhatFollows(t *testing.T) {
	c, _ := pipe(t, "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\nGET /")
	src, dst, err := Read(c, 10*time.Second)
	if err != nil || text(src) != "192.0.2.1:12345" || text(dst) != "198.51.100.2:443" {
		t.Fatalf("Read = %v, %v, %v", src, dst, err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "GET /" {
		t.Errorf("rest = %q, %v", b, err)
	}
}

func TestReadTimesOut(t *testing.T) {
	c, _ := pipe(t, "PROXY TCP4 ")
	if _, _, err := Read(c, 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read = %v, want a timeout", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, tt := range cases {
		f.Add([]byte(tt.in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		src, dst, err := parse(r)
		if used := len(in) - r.Len(); used > maxHeader {
			t.Errorf("read %d bytes", used)
		}
		if err != nil {
			return
		}
		if src.IsValid() != dst.IsValid() {
			t.Errorf("only one of %v and %v", src, dst)
		}
		if used := in[:len(in)-r.Len()]; used[0] == 'P' && !bytes.HasSuffix(used, []byte("\r\n")) {
			t.Errorf("v1 header %q doesn't end in CR LF", used)
		}
	})
}

// FuzzHeaders writes headers of both versions as the specification says, and
// reads them.
func FuzzHeaders(f *testing.F) {
	f.Add([]byte{192, 0, 2, 1}, []byte{198, 51, 100, 2}, uint16(1), uint16(443), []byte("rest"))
	f.Add(make([]byte, 16), append(make([]byte, 15), 1), uint16(0), uint16(65535), []byte(""))
	f.Fuzz(func(t *testing.T, from, to []byte, fromPort, toPort uint16, rest []byte) {
		a, ok := netip.AddrFromSlice(from)
		b, ok2 := netip.AddrFromSlice(to)
		if !ok || !ok2 || a.Is4() != b.Is4() {
			return
		}
		family, kind := "TCP4", byte(0x11)
		if !a.Is4() {
			family, kind = "TCP6", 0x21
		}
		v1 := fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, a, b, fromPort, toPort)
		v2 := append(slices.Clone(v2Signature), 0x21, kind, 0, byte(2*len(from)+4))
		v2 = append(append(v2, from...), to...)
		v2 = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(v2, fromPort), toPort)
		for _, header := range [][]byte{v1, v2} {
			r := bytes.NewReader(append(header, rest...))
			src, dst, err := parse(r)
			if err != nil || src != netip.AddrPortFrom(a.Unmap(), fromPort) || dst != netip.AddrPortFrom(b.Unmap(), toPort) || r.Len() != len(rest) {
				t.Errorf("%q: %v, %v, %v, %d bytes left of %d", header, src, dst, err, r.Len(), len(rest))
			}
		}
	})
}
