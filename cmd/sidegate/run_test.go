package main

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestProfiled runs something and reads its profile; where none can be written,
// nothing runs.
func TestProfiled(t *testing.T) {
	failed := errors.New("failed")
	path := filepath.Join(t.TempDir(), "cpu.pprof")
	if err := profiled(path, func() error { return failed }); !errors.Is(err, failed) {
		t.Errorf("error = %v, want that of what ran", err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || len(b) == 0 {
		t.Errorf("profile of %d bytes, %v", len(b), err)
	}
	ran := false
	if err := profiled(filepath.Join(path, "x"), func() error { ran = true; return nil }); err == nil || ran {
		t.Errorf("a profile that can't be written: %v, ran %v", err, ran)
	}
}
