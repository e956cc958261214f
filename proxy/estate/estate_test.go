package estate

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEstate: nobody takes what is still locked, and what was taken and removed is gone.
func TestEstate(t *testing.T) {
	dir := t.TempDir()
	e, err := Found(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(e.Dir(), "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	names, err := List(dir)
	if err != nil || len(names) != 1 || names[0] != e.Name() {
		t.Fatalf("List = %q, %v", names, err)
	}
	if got, err := Take(dir, e.Name()); got != nil || err != nil {
		t.Fatalf("taken while it is locked: %v, %v", got, err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	heir, err := Take(dir, e.Name())
	if err != nil || heir == nil {
		t.Fatalf("not taken: %v, %v", heir, err)
	}
	if err := heir.Remove(); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "new-drain-0123456789abcdef")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if names, err := List(dir); len(names) != 0 || err != nil {
		t.Fatalf("List = %q, %v", names, err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("what was half founded: %v", err)
	}
	if names, err := List(filepath.Join(dir, "missing")); names != nil || err != nil {
		t.Fatalf("List = %q, %v", names, err)
	}
}
