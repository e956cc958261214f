package pgtest

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// Cutter stands between a client and a server, and loses answers on purpose.
type Cutter struct {
	Address string
	// CutCommits is how many answers to COMMIT get lost: the server has committed,
	// and the client's connection breaks.
	CutCommits atomic.Int32
	// Refuse breaks connections as they are made.
	Refuse atomic.Bool
	// Cut is how many were lost.
	Cut atomic.Int32
}

// NewCutter puts one in front of a server.
func NewCutter(t testing.TB, server string) *Cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	c := &Cutter{Address: l.Addr().String()}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go c.serve(client, server)
		}
	}()
	return c
}

func (c *Cutter) serve(client net.Conn, address string) {
	defer client.Close()
	if c.Refuse.Load() {
		return
	}
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	var lose atomic.Bool
	go func() { // ends with the client
		defer server.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := client.Read(b)
			if err != nil {
				return
			}
			if bytes.HasPrefix(b[:n], []byte("Q\x00\x00\x00\x0bCOMMIT\x00")) && c.CutCommits.Add(-1) >= 0 {
				lose.Store(true)
			}
			if _, err := server.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	b := make([]byte, 64<<10)
	for {
		n, err := server.Read(b)
		if lose.Load() {
			c.Cut.Add(1)
			return
		}
		if err != nil {
			return
		}
		if _, err := io.Copy(client, bytes.NewReader(b[:n])); err != nil {
			return
		}
	}
}
