package shared

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// client talks to a Redis server: a command, an answer, on one of a few
// connections. It does what one script needs, and no more.
type client struct {
	network, address, username, password string
	db                                   int
	tls                                  *tls.Config // nil: plain

	places chan struct{} // one for each connection that there may be
	idle   chan *conn
	closed atomic.Bool
}

// conn is a connection, used by one request at a time.
type conn struct {
	net.Conn
	raw syscall.RawConn // below TLS, too
	r   *bufio.Reader
	out []byte
}

func newClient(c RedisConfig) *client {
	k := &client{
		network: "tcp", address: c.Address, username: c.Username, password: c.Password.Reveal(), db: c.DB,
		places: make(chan struct{}, c.Connections), idle: make(chan *conn, c.Connections),
	}
	if path, ok := cutUnix(c.Address); ok {
		k.network, k.address = "unix", path
	}
	return k
}

// refusal is an error that the server answers with.
type refusal string

func (e refusal) Error() string { return "redis: " + string(e) }

// isError reports whether err is a refusal that begins with that word.
func isError(err error, word string) bool {
	var e refusal
	return errors.As(err, &e) && strings.HasPrefix(string(e), word)
}

// do sends a command and returns the numbers of its answer. It is never sent a
// second time: it might count twice.
func (k *client) do(ctx context.Context, args ...string) ([]int64, error) {
	select {
	case k.places <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("redis: no connection is free: %w", errBusy)
	}
	defer func() { <-k.places }()
	c, err := k.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	out, err := c.ask(args...)
	var no refusal
	if err != nil && !errors.As(err, &no) {
		_ = c.Close()
		k.drop() // the others are no better
		return nil, fmt.Errorf("redis: %w", err)
	}
	k.put(c)
	return out, err
}

// get returns a connection that lives, and that will only wait as long as ctx.
func (k *client) get(ctx context.Context) (*conn, error) {
	until, _ := ctx.Deadline()
	for {
		select {
		case c := <-k.idle:
			if c.dead() || c.SetDeadline(until) != nil {
				_ = c.Close()
				continue
			}
			return c, nil
		default:
			return k.dial(ctx, until)
		}
	}
}

func (k *client) put(c *conn) {
	if k.closed.Load() {
		_ = c.Close()
		return
	}
	k.idle <- c // there is a place for each connection
}

// drop closes the connections that nobody uses.
func (k *client) drop() {
	for {
		select {
		case c := <-k.idle:
			_ = c.Close()
		default:
			return
		}
	}
}

// Close closes the connections, those in use when they are given back.
func (k *client) Close() {
	k.closed.Store(true)
	k.drop()
}

func (k *client) dial(ctx context.Context, until time.Time) (*conn, error) {
	var d net.Dialer
	plain, err := d.DialContext(ctx, k.network, k.address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: plain}
	if s, ok := plain.(syscall.Conn); ok {
		c.raw, err = s.SyscallConn()
	}
	if err == nil {
		err = c.SetDeadline(until)
	}
	if err == nil {
		err = k.introduce(ctx, c)
	}
	if err != nil {
		_ = plain.Close()
		return nil, err
	}
	return c, nil
}

// introduce says who we are, and chooses the database.
func (k *client) introduce(ctx context.Context, c *conn) error {
	if k.tls != nil {
		secure := tls.Client(c.Conn, k.tls)
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
		c.Conn = secure
	}
	c.r = bufio.NewReader(c.Conn)
	auth := []string{"AUTH", k.username, k.password}
	if k.username == "" {
		auth = []string{"AUTH", k.password}
	}
	if k.password != "" {
		if _, err := c.ask(auth...); err != nil {
			return err
		}
	}
	if k.db == 0 {
		return nil
	}
	_, err := c.ask("SELECT", strconv.Itoa(k.db))
	return err
}

// dead reports whether the server has closed an idle connection, as far as that
// is known here.
func (c *conn) dead() (dead bool) {
	if c.raw == nil {
		return false
	}
	err := c.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		dead = n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR //nolint:errorlint // an Errno as it is
		return true
	})
	return dead || err != nil
}

// ask sends a command (RESP: an array of bulk strings) and reads its answer.
func (c *conn) ask(args ...string) ([]int64, error) {
	c.out = append(strconv.AppendInt(append(c.out[:0], '*'), int64(len(args)), 10), "\r\n"...)
	for _, a := range args {
		c.out = append(strconv.AppendInt(append(c.out, '$'), int64(len(a)), 10), "\r\n"...)
		c.out = append(append(c.out, a...), "\r\n"...)
	}
	if _, err := c.Write(c.out); err != nil {
		return nil, err
	}
	if cap(c.out) > 1<<16 {
		c.out = nil
	}
	return readAnswer(c.r)
}

// maxNumbers bounds an answer: two numbers for each counter of a request.
const maxNumbers = 64

// readAnswer reads a status, an error, a number, or an array of numbers.
func readAnswer(r *bufio.Reader) ([]int64, error) {
	kind, text, err := readLine(r)
	if err != nil {
		return nil, err
	}
	switch kind {
	case '+':
		return nil, nil
	case '-':
		return nil, refusal(text)
	case ':':
		n, err := strconv.ParseInt(text, 10, 64)
		return []int64{n}, err
	case '*':
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n > maxNumbers {
			return nil, fmt.Errorf("an array of %.20q", text)
		}
		list := make([]int64, n)
		for i := range list {
			if kind, text, err = readLine(r); err == nil && kind != ':' {
				err = fmt.Errorf("%q in an array of numbers", kind)
			}
			if err == nil {
				list[i], err = strconv.ParseInt(text, 10, 64)
			}
			if err != nil {
				return nil, err
			}
		}
		return list, nil
	default:
		return nil, fmt.Errorf("an answer of the kind %q", kind)
	}
}

// readLine reads a line of an answer, which the reader's buffer bounds.
func readLine(r *bufio.Reader) (kind byte, text string, err error) {
	b, err := r.ReadSlice('\n')
	if err != nil {
		return 0, "", err
	}
	if len(b) < 3 || b[len(b)-2] != '\r' {
		return 0, "", errors.New("a line without its end")
	}
	return b[0], string(b[1 : len(b)-2]), nil
}
