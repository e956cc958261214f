package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/usage"
	"github.com/sidegate-proxy/sidegate/proxy/usage/usagetest"
)

var (
	begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	key   = usage.Key{Consumer: "a", Route: "r", Service: "s", Class: 2}
)

func opened(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // it may be closed already
	return s
}

func TestStore(t *testing.T) {
	usagetest.Run(t, func(t *testing.T) usage.Store { return opened(t, filepath.Join(t.TempDir(), "u.db")) })
}

func TestAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%e.db")
	for i := range int64(3) {
		s := opened(t, path)
		if err := s.Add(t.Context(), []usage.Row{usagetest.Row(begin, key, 1, time.Millisecond)}); err != nil {
			t.Fatal(err)
		}
		usagetest.Check(t, "again", usagetest.Sum(t, s, usage.Filter{}), i+1)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		v, err := View(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		usagetest.Check(t, "viewed", usagetest.Sum(t, v, usage.Filter{}), i+1)
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if list, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(list) != 1 {
		t.Errorf("files: %v, %v", list, err)
	}
}

// TestViewAfterCrash looks at what a gateway that was killed has left.
func TestViewAfterCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "u.db")
	s := opened(t, path)
	if err := s.Add(t.Context(), []usage.Row{usagetest.Row(begin, key, 7, time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(t.TempDir(), "u.db")
	for _, end := range []string{"", "-wal"} { // as they lie on the disk
		b, err := os.ReadFile(path + end)
		if err == nil {
			err = os.WriteFile(left+end, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	v, err := View(t.Context(), left)
	if err != nil {
		t.Fatal(err)
	}
	usagetest.Check(t, "viewed", usagetest.Sum(t, v, usage.Filter{}), 7)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	usagetest.Check(t, "opened", usagetest.Sum(t, opened(t, left), usage.Filter{}), 7)
}

func TestViewNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "u.db")
	if _, err := View(t.Context(), path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("View = %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := View(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	usagetest.Check(t, "an empty file", usagetest.Sum(t, v, usage.Filter{}), 0)
}

// TestViewWhileRunning must not read past what the gateway has in its journal.
func TestViewWhileRunning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "u.db")
	s := opened(t, path)
	if err := s.Add(t.Context(), []usage.Row{usagetest.Row(begin, key, 7, time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	v, err := View(t.Context(), path)
	if err != nil {
		return // it is in use: as well
	}
	defer v.Close()
	err = v.Read(t.Context(), &usage.Filter{Until: 1 << 40}, func(r *usage.Row) error {
		if r.Requests != 7 {
			t.Errorf("%d requests", r.Requests)
		}
		return nil
	})
	t.Log(err)
}

func TestForeign(t *testing.T) {
	exec := func(t *testing.T, path, sql string) {
		t.Helper()
		s := opened(t, path)
		if err := s.conn.Exec(sql); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"newer", func(t *testing.T, path string) { exec(t, path, "PRAGMA user_version = 7") }, "schema 7, and this version knows 1: a newer version of sidegate wrote it"},
		{"another program's", func(t *testing.T, path string) { exec(t, path, "PRAGMA application_id = 7") }, "another program's database"},
		{"another program's, unmarked", func(t *testing.T, path string) { exec(t, path, "PRAGMA application_id = 0; PRAGMA user_version = 0") }, "another program's database"},
		{"no database", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("no database, for sure\n", 100)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "file is not a database"},
		{"a folder", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, "is a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "u.db")
			tt.make(t, path)
			if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open = %v, want %q", err, tt.want)
			}
		})
	}
}

// TestDamaged reads and writes files with bytes that changed: whatever comes of
// it, it is an error or a wrong sum, and no panic.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "u.db")
	s := opened(t, path)
	var rows []usage.Row
	for i := range 2000 {
		rows = append(rows, usagetest.Row(begin.Add(time.Duration(i%5)*time.Minute), usage.Key{Consumer: fmt.Sprint("c", i), Route: "r"}, 1, time.Millisecond))
	}
	if err := s.Add(t.Context(), rows); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for i := range 60 {
		bad := append([]byte(nil), good...)
		for j := range 200 {
			at := (i*7919 + j*104729 + 100) % len(bad)
			bad[at] ^= byte(1 + i*31 + j)
		}
		bad = bad[:len(bad)-i*len(bad)/120]
		path := filepath.Join(t.TempDir(), "u.db")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if use(t.Context(), path, rows) != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no damage was noticed")
	}
}

func use(ctx context.Context, path string, rows []usage.Row) error {
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	err = errors.Join(s.Read(ctx, &usage.Filter{Until: 1 << 40}, func(*usage.Row) error { return nil }), s.Add(ctx, rows))
	_, folded := s.Fold(ctx, begin.Add(48*time.Hour), usagetest.Keep)
	return errors.Join(err, folded, s.Close())
}

func BenchmarkAdd(b *testing.B) {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "u.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var rows []usage.Row
	for i := range 10_000 {
		rows = append(rows, usagetest.Row(begin, usage.Key{Consumer: fmt.Sprint("c", i), Route: "r", Service: "s", Class: 2}, 3, time.Millisecond))
	}
	for b.Loop() {
		if err := s.Add(b.Context(), rows); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N*len(rows)), "ns/row")
}
