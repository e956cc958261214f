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
	"testing"

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
