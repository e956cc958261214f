// Package proxyproto reads the PROXY protocol header, version 1 or 2, that a
// load balancer puts in front of a connection to tell whose it is.
//
// It reads exactly the header and not a byte more, so what follows (a TLS
// handshake, a request) is still on the connection. It is strict: there must be
// a header, whole, well-formed, in time, and of 536 bytes at most; everything
// else is an error, after which the connection has to be closed. Whether the
// peer may say whose connection it is, is the caller's decision, before Read.
//
// It isn't for sending the header, and not for datagrams. It starts no
// goroutine.
//
// github.com/pires/go-proxyproto does the same and more; its current release
// needs a newer Go than this module, and it wraps the connection, which hides
// the *net.TCPConn that splicing wants.
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
	"strconv"
	"strings"
	"time"
)

// maxHeader is the longest header accepted: what the specification asks of
// receivers (2.2: 536 bytes fit a single segment); version 1 has 107 at most.
const maxHeader = 536

const (
	maxV1     = 107
	minV1     = len("PROXY UNKNOWN\r\n")
	v2Fixed   = 16
	typeCRC32 = 0x03
)

var v2Signature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// Read reads the header from c within timeout. Without an address in it (v1
// UNKNOWN, v2 LOCAL, a family other than IP) src and dst are zero: the
// connection is the balancer's own, for one a health check.
//
// It leaves c without a read deadline. After an error c is of no more use.
func Read(c net.Conn, timeout time.Duration) (src, dst netip.AddrPort, err error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return src, dst, fmt.Errorf("PROXY protocol: %w", err)
	}
	src, dst, err = parse(c)
	if err != nil {
		return netip.AddrPort{}, netip.AddrPort{}, fmt.Errorf("PROXY protocol: %w", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return netip.AddrPort{}, netip.AddrPort{}, fmt.Errorf("PROXY protocol: %w", err)
	}
	return src, dst, nil
}

func parse(r io.Reader) (src, dst netip.AddrPort, err error) {
	var buf [maxHeader]byte
	// The shortest v1 header is shorter than the fixed part of v2, so this much
	// belongs to the header in any case.
	head := buf[:minV1]
	if _, err := io.ReadFull(r, head); err != nil {
		return src, dst, fmt.Errorf("header: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, v2Signature):
		return parseV2(r, buf[:])
	case bytes.HasPrefix(head, []byte("PROXY ")):
		return parseV1(r, buf[:maxV1])
	default:
		return src, dst, errors.New("no header")
	}
}

// parseV1 reads the rest of a line of which minV1 bytes are in buf. It goes
// byte by byte at its end, as the length isn't known; the bytes are there, as
// the specification wants the header in one piece.
func parseV1(r io.Reader, buf []byte) (src, dst netip.AddrPort, err error) {
	n := minV1
	for buf[n-1] != '\n' {
		if n == len(buf) {
			return src, dst, errors.New("v1: line too long")
		}
		// A line that isn't complete has two more bytes at least unless its \r
		// is there.
		want := 2
		if buf[n-1] == '\r' || n+2 > len(buf) {
			want = 1
		}
		if _, err := io.ReadFull(r, buf[n:n+want]); err != nil {
			return src, dst, fmt.Errorf("v1: %w", err)
		}
		n += want
	}
	line, ok := strings.CutSuffix(string(buf[:n]), "\r\n")
	if !ok || strings.ContainsAny(line, "\r\n") {
		return src, dst, errors.New("v1: line doesn't end in CR LF")
	}
	f := strings.Split(line, " ")
	if f[1] == "UNKNOWN" {
		return src, dst, nil // what follows on the line is to be ignored
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return src, dst, fmt.Errorf("v1: line %.60q", line)
	}
	if src, err = addrPort(f[1], f[2], f[4]); err != nil {
		return src, dst, err
	}
	dst, err = addrPort(f[1], f[3], f[5])
	return src, dst, err
}

func addrPort(family, host, port string) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(host)
	if err != nil || a.Zone() != "" || a.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, fmt.Errorf("v1: %s address %.45q", family, host)
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || len(port) > 1 && port[0] == '0' || port[0] == '+' {
		return netip.AddrPort{}, fmt.Errorf("v1: port %.10q", port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), nil
}

// parseV2 reads the rest of a binary header of which minV1 bytes are in buf.
func parseV2(r io.Reader, buf []byte) (src, dst netip.AddrPort, err error) {
	if _, err := io.ReadFull(r, buf[minV1:v2Fixed]); err != nil {
		return src, dst, fmt.Errorf("v2: %w", err)
	}
	version, command := buf[12]>>4, buf[12]&15
	family, transport := buf[13]>>4, buf[13]&15
	length := int(binary.BigEndian.Uint16(buf[14:]))
	switch {
	case version != 2:
		return src, dst, fmt.Errorf("v2: version %d", version)
	case command > 1:
		return src, dst, fmt.Errorf("v2: command %d", command)
	case family > 3 || transport > 2:
		return src, dst, fmt.Errorf("v2: address family %d, transport %d", family, transport)
	case v2Fixed+length > len(buf):
		return src, dst, fmt.Errorf("v2: header of %d bytes", v2Fixed+length)
	}
	header := buf[:v2Fixed+length]
	if _, err := io.ReadFull(r, header[v2Fixed:]); err != nil {
		return src, dst, fmt.Errorf("v2: %w", err)
	}
	size := map[byte]int{1: 4, 2: 16, 3: 108}[family] // of one address
	addresses := 2 * size
	if family == 1 || family == 2 {
		addresses += 4
	}
	if command == 0 {
		addresses = min(addresses, length) // LOCAL: to be discarded, so it needn't be whole
	}
	if length < addresses {
		return src, dst, fmt.Errorf("v2: %d bytes for addresses of family %d", length, family)
	}
	if err := checkTLVs(header, v2Fixed+addresses); err != nil {
		return src, dst, err
	}
	if command == 0 || size != 4 && size != 16 {
		return src, dst, nil
	}
	if transport != 1 {
		return src, dst, fmt.Errorf("v2: transport %d on a stream", transport)
	}
	a := header[v2Fixed:]
	s, _ := netip.AddrFromSlice(a[:size])
	d, _ := netip.AddrFromSlice(a[size : 2*size])
	ports := a[2*size:]
	src = netip.AddrPortFrom(s.Unmap(), binary.BigEndian.Uint16(ports))
	dst = netip.AddrPortFrom(d.Unmap(), binary.BigEndian.Uint16(ports[2:]))
	return src, dst, nil
}

// checkTLVs walks the extensions from header[i:] on, and verifies the checksum
// if there is one (2.2.4); the others are for those who know them.
func checkTLVs(header []byte, i int) error {
	for i < len(header) {
		if len(header)-i < 3 {
			return errors.New("v2: broken extension")
		}
		kind, n := header[i], int(binary.BigEndian.Uint16(header[i+1:]))
		i += 3
		if n > len(header)-i {
			return errors.New("v2: extension longer than the header")
		}
		if kind == typeCRC32 {
			if n != 4 {
				return fmt.Errorf("v2: checksum of %d bytes", n)
			}
			want := binary.BigEndian.Uint32(header[i:])
			copied := bytes.Clone(header)
			clear(copied[i : i+4])
			if crc32.Checksum(copied, crc32.MakeTable(crc32.Castagnoli)) != want {
				return errors.New("v2: checksum differs")
			}
		}
		i += n
	}
	return nil
}
