package consumer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that nobody wrote: %v", err)
	}
	r, err := d.Change("acme", func(r *Record) error { return r.Add(Key{Hash: hash("a"), Created: 1}, noon) })
	if err != nil || len(r.Keys) != 1 {
		t.Fatalf("Change = %v, %v", r, err)
	}
	want := errors.New("no")
	if _, err := d.Change("acme", func(r *Record) error { r.Keys[0].Revoked = 1; return want }); err != want {
		t.Errorf("Change = %v, want its error", err)
	}
	if err := errors.Join(d.Put("umbrella", "consumer \"umbrella\" {}\n"), d.Put("gone", "x"), d.Put("gone", ""),
		d.Lift(hash("b"), Revocation{"acme", 7}), d.Lift(hash("c"), Revocation{"acme", 8}), d.Heard([]Hash{hash("c"), hash("d")}), d.Heard([]Hash{hash("d")})); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	consumers, keys, revoked := again.Read()
	if diff := cmp.Diff(map[string]string{"umbrella": "consumer \"umbrella\" {}\n"}, consumers) +
		cmp.Diff(map[string]Record{"acme": {Keys: []Key{{Hash: hash("a"), Created: 1}}}}, keys) +
		cmp.Diff(map[Hash]Revocation{hash("b"): {"acme", 7}}, revoked); diff != "" {
		t.Errorf("read again: %s", diff)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v %v", entries, err)
	}
}

// TestBrokenDisk: what can't be read is never written over.
func TestBrokenDisk(t *testing.T) {
	for _, text := range []string{"", "{", `{"format":"sidegate-keys-9"}`, `{"format":"sidegate-keys-1","keys":{"a":{"keys":[{"sha256":"x"}]}}}`} {
		path := filepath.Join(t.TempDir(), "keys.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := OpenDisk(path)
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: OpenDisk = %v", text, err)
		}
		if err := d.Put("a", "b"); err == nil || !strings.Contains(err.Error(), "isn't changed") {
			t.Errorf("%q: Put = %v", text, err)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("%q became %q (%v)", text, now, err)
		}
	}
	// A folder that can't be written leaves what was.
	path := filepath.Join(t.TempDir(), "none", "keys.json")
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put("a", "b"); err == nil || !strings.Contains(err.Error(), "can't be kept on disk") {
		t.Errorf("Put = %v", err)
	}
	if consumers, _, _ := d.Read(); len(consumers) > 0 {
		t.Errorf("kept though it couldn't be: %v", consumers)
	}
}
