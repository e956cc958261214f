package linelog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

func quiet() *logrus.Logger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// TestLines: what many append at once is written line by line, all of it, by the
// time that Run returns.
func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := New("access_log", path, quiet())
	out, err := w.Open()
	if err != nil {
		t.Fatal(err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); w.Run(done, out) }()
	const writers, each = 20, 200
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				w.Append(uint32(i), func(b []byte) []byte {
					return append(strconv.AppendInt(append(b, strings.Repeat("x", 100)...), int64(i*each+j), 10), '\n')
				})
			}
		})
	}
	wg.Wait()
	close(done)
	<-ended
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for line := range strings.Lines(string(b)) {
		n, err := strconv.Atoi(strings.TrimLeft(strings.TrimSpace(line), "x"))
		if err != nil {
			t.Fatalf("%q", line)
		}
		got = append(got, n)
	}
	slices.Sort(got)
	if len(slices.Compact(got)) != writers*each || w.Dropped() != 0 {
		t.Errorf("%d lines of %d, %d dropped", len(got), writers*each, w.Dropped())
	}
}

// TestDropped: an output that is too slow, or fails, costs lines, which are
// counted, and never a wait.
func TestDropped(t *testing.T) {
	w := New("access_log", "stdout", quiet())
	line := bytes.Repeat([]byte("x"), 1023)
	add := func() { w.Append(3, func(b []byte) []byte { return append(append(b, line...), '\n') }) }
	for range dropAt/1024 + 1 + 5 { // nobody writes
		add()
	}
	if n := w.Dropped(); n != 5 {
		t.Errorf("%d dropped, want 5", n)
	}
	done := make(chan struct{})
	close(done)
	w.Run(done, broken{})
	if n := w.Dropped(); n != 5+dropAt/1024+1 {
		t.Errorf("%d dropped after the output failed, want all of %d", n, 5+dropAt/1024+1)
	}
	if _, err := New("audit_log", filepath.Join(t.TempDir(), "no", "log"), quiet()).Open(); err == nil || !strings.HasPrefix(err.Error(), "audit_log: ") {
		t.Errorf("a file that can't be opened: %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("full") }
func (broken) Close() error              { return nil }

// small is a disk with room for some bytes.
type small struct {
	mu   sync.Mutex // guards the rest
	b    bytes.Buffer
	room int
}

func (s *small) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(p), s.room)
	s.room -= n
	s.b.Write(p[:n])
	if n < len(p) {
		return n, errors.New("full")
	}
	return n, nil
}

func (s *small) Close() error { return nil }

func (s *small) more(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room += n
}

func (s *small) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Len()
}

// messages are those that a log is given.
type messages struct {
	mu   sync.Mutex // guards list
	list []string
}

func (m *messages) Levels() []logrus.Level { return logrus.AllLevels }

func (m *messages) Fire(e *logrus.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, e.Message)
	return nil
}

func (m *messages) count(text string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, s := range m.list {
		if strings.Contains(s, text) {
			n++
		}
	}
	return n
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// begin runs w with its output out, until the test's end or the returned stop.
func begin(t *testing.T, w *Writer, out io.WriteCloser) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); w.Run(done, out) }()
	stop = sync.OnceFunc(func() { close(done); <-ended })
	t.Cleanup(stop)
	return stop
}

func line(w *Writer, text string) {
	w.Append(0, func(b []byte) []byte { return append(append(b, text...), '\n') })
}

// TestFull: what a full disk doesn't take is written when it has room again, from
// the byte on that it didn't take.
func TestFull(t *testing.T) {
	said := &messages{}
	log := quiet()
	log.AddHook(said)
	w, disk := New("access_log", "stdout", log), &small{room: 10}
	stop := begin(t, w, disk)
	line(w, "first")
	line(w, "second")
	until(t, "full disk", func() bool { return disk.size() == 10 && said.count("can't be written") == 1 })
	line(w, "third")
	disk.more(1)
	until(t, "further byte", func() bool { return disk.size() == 11 })
	disk.more(100)
	until(t, "rest", func() bool { return disk.size() == len("first\nsecond\nthird\n") })
	stop()
	if got := disk.b.String(); got != "first\nsecond\nthird\n" || w.Dropped() != 0 {
		t.Errorf("%q, %d dropped", got, w.Dropped())
	}
	if said.count("can't be written") > 2 || said.count("can be written again") == 0 {
		t.Errorf("said %q", said.list)
	}
}

// TestRotateFull: with a line half written to a full disk, the next file begins
// with a whole one.
func TestRotateFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w, disk := New("access_log", path, quiet()), &small{room: 10}
	stop := begin(t, w, disk)
	line(w, "first")
	line(w, "second")
	line(w, "third")
	until(t, "full disk", func() bool { return disk.size() == 10 })
	w.Reopen()
	until(t, "third line", func() bool { b, _ := os.ReadFile(path); return string(b) == "third\n" })
	line(w, "fourth")
	stop()
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "third\nfourth\n" || w.Dropped() != 1 {
		t.Errorf("%q, %d dropped, %v", b, w.Dropped(), err)
	}
}

// TestFolderGone: a file that can't be opened again is tried until it can; the old
// one goes on meanwhile.
func TestFolderGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path, said, log := filepath.Join(dir, "log"), &messages{}, quiet()
	log.AddHook(said)
	w := New("access_log", path, log)
	out, err := w.Open()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	stop := begin(t, w, out)
	line(w, "first")
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	w.Reopen()
	until(t, "message", func() bool { return said.count("can't be opened again") == 1 })
	line(w, "second")
	until(t, "second line", func() bool {
		b, _ := os.ReadFile(filepath.Join(dir+".old", "log"))
		return string(b) == "first\nsecond\n"
	})
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	until(t, "new file", func() bool { _, err := os.Stat(path); return err == nil })
	line(w, "third")
	stop()
	if b, _ := os.ReadFile(path); string(b) != "third\n" || said.count("can't be opened again") != 1 || w.Dropped() != 0 {
		t.Errorf("%q, said %q, %d dropped", b, said.list, w.Dropped())
	}
}

// TestPipe: a named pipe without a reader holds up nobody, not even the end.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	said, log := &messages{}, quiet()
	log.AddHook(said)
	w := New("access_log", path, log)
	out, err := w.Open()
	if err != nil {
		t.Fatal(err)
	}
	stop := begin(t, w, out)
	r, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	line(w, "first")
	buf := make([]byte, 6)
	if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "first\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for long := strings.Repeat("x", 10_000); w.Dropped() < 100; {
		line(w, long)
	}
	until(t, "word of it", func() bool { return said.count("are dropped") == 1 })
	stop()
	if said.count("nobody reads") != 1 || said.count("are dropped") != 1 {
		t.Errorf("said %q", said.list)
	}
}

// TestReopenUnderLoad: rotation loses no line, and cuts none.
func TestReopenUnderLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := New("access_log", path, quiet())
	out, err := w.Open()
	if err != nil {
		t.Fatal(err)
	}
	stop := begin(t, w, out)
	const writers, each, turns = 4, 5000, 5
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				w.Append(uint32(i), func(b []byte) []byte { return append(strconv.AppendInt(b, int64(i*each+j), 10), '\n') })
			}
		})
	}
	for i := range turns {
		old := path + "." + strconv.Itoa(i)
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		w.Reopen()
		until(t, "new file", func() bool { _, err := os.Stat(path); return err == nil })
	}
	wg.Wait()
	stop()
	seen := map[string]bool{}
	files, _ := filepath.Glob(path + "*")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			seen[l] = true
		}
	}
	if len(seen) != writers*each || w.Dropped() != 0 || len(files) != turns+1 {
		t.Errorf("%d of %d lines in %d files, %d dropped", len(seen), writers*each, len(files), w.Dropped())
	}
}
