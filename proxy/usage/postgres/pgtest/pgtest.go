// Package pgtest runs a real PostgreSQL for tests, on a loopback port and in a
// folder of its own.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Server is a PostgreSQL that a test has started.
type Server struct {
	t    testing.TB
	bin  string
	dir  string
	port int
	cmd  *exec.Cmd
	done chan error
	log  bytes.Buffer // read once the server has ended
}

// New makes a cluster and starts it. Root can't run PostgreSQL: nobody does, then.
func New(t testing.TB) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	dir, err := os.MkdirTemp("", "sidegate-pg-") // below t.TempDir, nobody could look for it
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, bin: programs(t), dir: dir, port: freePort(t)}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if who := s.user(); who != nil {
		if err := os.Chown(dir, int(who.Uid), int(who.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := s.command("initdb", "-D", s.data(), "-A", "trust", "-U", "sidegate", "-E", "UTF8", "--locale", "C", "-N")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	s.Start()
	t.Cleanup(func() {
		s.end(syscall.SIGQUIT)
		if t.Failed() {
			t.Logf("PostgreSQL said: %s", s.log.Bytes())
		}
	})
	return s
}

// programs is the folder of PostgreSQL's programs, as Debian has it.
func programs(t testing.TB) string {
	t.Helper()
	list, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(list) > 0 {
		return filepath.Dir(list[len(list)-1])
	}
	p, err := exec.LookPath("initdb")
	if err != nil {
		t.Fatal("PostgreSQL isn't installed: run make tools")
	}
	return filepath.Dir(p)
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// user is who runs it; nil: who runs the test.
func (s *Server) user() *syscall.Credential {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		s.t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: true}
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "HOME="+s.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user(), Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// Start starts it after Stop or Kill, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	// A process that is killed leaves the page cache: there is no need to wait for the disk.
	s.cmd = s.command("postgres", "-D", s.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-k", "", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=40")
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(s.cmd, s.done)
	err := errors.New("not tried")
	for end := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		_, err = s.query("SELECT 1")
	}
	if err != nil {
		s.t.Fatalf("PostgreSQL doesn't answer: %v", err)
	}
}

// Kill ends it at once, as a crash does.
func (s *Server) Kill() { s.end(syscall.SIGQUIT) }

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig) // it may be gone
	<-s.done
	s.cmd = nil
}

// Address is where it listens.
func (s *Server) Address() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// URL is that of a database.
func (s *Server) URL(database string) string { return URL(s.Address(), database) }

// URL is that of a database behind an address.
func URL(address, database string) string {
	return fmt.Sprintf("postgres://sidegate@%s/%s?sslmode=disable", address, database)
}

// Database makes a database and returns its URL.
func (s *Server) Database(name string) string {
	s.t.Helper()
	s.Query("CREATE DATABASE " + name)
	return s.URL(name)
}

// Query asks the database postgres, and returns the first value.
func (s *Server) Query(sql string) string {
	s.t.Helper()
	v, err := s.query(sql)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *Server) query(sql string) (string, error) { return Query(s.URL("postgres"), sql) }

// Query asks a database, and returns the first value.
func Query(url, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := pgconn.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 || len(results[0].Rows) == 0 {
		return "", err
	}
	return string(results[0].Rows[0][0]), nil
}
