package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// pair is a connection over loopback: ours, and the peer's.
func pair(t *testing.T) (*Conn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close(); _ = nc.Close() })
	c, ok := Wrap(nc).(*Conn)
	if !ok {
		t.Fatalf("Wrap(%T) is no Conn", nc)
	}
	return c, peer.(*net.TCPConn)
}

func TestReadWrite(t *testing.T) {
	c, peer := pair(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than the sockets hold
	echoed := make(chan error, 1)
	go func() {
		_, err := io.Copy(peer, peer)
		_ = peer.CloseWrite()
		echoed <- err
	}()
	go func() {
		if n, err := c.Write(sent); n != len(sent) || err != nil {
			t.Errorf("Write = %d, %v; want %d", n, err, len(sent))
		}
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("read %d bytes, %v; want the %d that were sent", len(got), err, len(sent))
	}
	if err := <-echoed; err != nil {
		t.Error(err)
	}
}

// TestAwait sees that buffers are given back exactly when nothing was read.
func TestAwait(t *testing.T) {
	tests := []struct {
		name string
		do   func(c *Conn, peer *net.TCPConn) error
		want string
		err  error
	}{
		{"bytes", func(_ *Conn, peer *net.TCPConn) error { _, err := peer.Write([]byte("hello")); return err }, "hello", nil},
		{"end", func(_ *Conn, peer *net.TCPConn) error { return peer.CloseWrite() }, "", io.EOF},
		{"deadline", func(c *Conn, _ *net.TCPConn) error { return c.SetReadDeadline(time.Now()) }, "", os.ErrDeadlineExceeded},
		{"closed", func(c *Conn, _ *net.TCPConn) error { return c.Close() }, "", net.ErrClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, peer := pair(t)
			held := 0
			get := func() []byte { held++; return make([]byte, 16) }
			put := func(b []byte) {
				if len(b) != 16 {
					t.Errorf("put got %d bytes", len(b))
				}
				held--
			}
			done := make(chan error, 1)
			go func() { done <- tt.do(c, peer) }()
			buf, n, err := c.Await(get, put)
			if string(buf[:n]) != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("Await = %q, %v; want %q, %v", buf[:n], err, tt.want, tt.err)
			}
			if want := min(n, 1); held != want {
				t.Errorf("%d buffers held, want %d", held, want)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAwaitReadable(t *testing.T) {
	c, peer := pair(t)
	go func() { _, _ = peer.Write([]byte("x")) }() // if it fails, the read below does
	if err := c.AwaitReadable(); err != nil {
		t.Fatal(err)
	}
	var b [4]byte
	if n, err := c.Read(b[:]); n != 1 || err != nil {
		t.Errorf("Read = %d, %v; want 1", n, err)
	}
}

func TestBelow(t *testing.T) {
	c, peer := pair(t)
	if got := Below(c); got != c {
		t.Errorf("Below(Conn) = %p, want itself", got)
	}
	if got := Below(peer); got == nil || got.TCPConn != peer {
		t.Errorf("Below(TCPConn) = %v, want one of it", got)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if got := Below(a); got != nil || Wrap(a) != a {
		t.Errorf("a pipe has a Conn: %v", got)
	}
}
