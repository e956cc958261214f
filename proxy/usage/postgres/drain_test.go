package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
	"github.com/sidegate-proxy/sidegate/proxy/usage/usagetest"
)

// TestDrains: what a process that has yielded couldn't deliver, whoever has the spool
// takes over when it has ended, each batch once.
func TestDrains(t *testing.T) {
	dir := t.TempDir()
	log, _ := test.NewNullLogger()
	url := secret.String("postgres://u:p@127.0.0.1:1/none") // nobody is there
	open := func(drains bool) *Store {
		t.Helper()
		s, err := Open(Deps{Log: log, URL: url, Dir: dir, Most: 1 << 20, Drains: drains})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	n := 0
	add := func(s *Store) {
		t.Helper()
		n++
		k := key
		k.Consumer = fmt.Sprint("consumer", n)
		if err := s.Add(t.Context(), []usage.Row{usagetest.Row(begin, k, 1, time.Millisecond)}); err != nil {
			t.Fatal(err)
		}
	}
	old := open(false)
	add(old)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	next, old := open(false), open(true)
	add(old)
	add(next)
	if got := len(next.spool.list); got != 2 {
		t.Errorf("%d batches while the old process works, want 2", got)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	add(next)
	if err := next.spool.inherit(log); err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, i := range next.spool.list {
		list, err := next.spool.read(i)
		if err != nil {
			t.Fatal(err)
		}
		rows += len(list)
	}
	if rows != 4 || next.spool.bytes != folderSize(t, dir) {
		t.Errorf("%d rows, want 4; %d bytes", rows, next.spool.bytes)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
}
