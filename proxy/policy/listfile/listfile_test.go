package listfile

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestFiles(t *testing.T) {
	var f Files[string]
	path := filepath.Join(t.TempDir(), "list")
	bad := errors.New("bad")
	made := 0
	read := func() (*string, error) {
		return f.Read(path, func(b []byte) (*string, error) {
			made++
			if string(b) == "bad" {
				return nil, bad
			}
			s := string(b)
			return &s, nil
		})
	}
	write := func(text string, at int64) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, time.Time{}, time.Unix(at, 0))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := read(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	write("one", 1)
	first, err := read()
	if err != nil || *first != "one" {
		t.Fatalf("read %v, %v", first, err)
	}
	if again, err := read(); again != first || err != nil || made != 1 {
		t.Errorf("not shared: made %d times, %v", made, err)
	}
	write("two", 2)
	if second, err := read(); err != nil || *second != "two" {
		t.Errorf("changed file: %v, %v", second, err)
	}
	write("bad", 3)
	if _, err := read(); !errors.Is(err, bad) {
		t.Errorf("bad file: %v", err)
	}
	runtime.KeepAlive(first)
	var none *Files[string]
	if s, err := none.Read(path, func([]byte) (*string, error) { return first, nil }); s != first || err != nil {
		t.Errorf("nil Files: %v, %v", s, err)
	}
}
