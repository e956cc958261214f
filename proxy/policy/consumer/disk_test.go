package consumer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kept is what a disk has, for cmp.
type kept struct {
	Consumers map[string]string
	Keys      map[string]Record
	Lifted    map[Hash]Revocation
}

func read(t testing.TB, path string) kept {
	t.Helper()
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	var k kept
	k.Consumers, k.Keys, k.Lifted = d.Read()
	return k
}

// journal has a change of each kind.
func journal(t testing.TB, path string) {
	t.Helper()
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
	none, err := d.Change("gone", func(r *Record) error { return r.Add(Key{Hash: hash("g")}, noon) })
	if err == nil {
		none, err = d.Change("gone", func(r *Record) error { r.Keys = nil; return nil })
	}
	if err != nil || len(none.Keys) != 0 {
		t.Errorf("Change = %v, %v", none, err)
	}
	if err := errors.Join(d.Put("umbrella", "consumer \"umbrella\" {}\n"), d.Put("gone", "x"), d.Put("gone", ""),
		d.Lift(hash("b"), Revocation{"acme", 7}), d.Lift(hash("c"), Revocation{"acme", 8}), d.Heard([]Hash{hash("c"), hash("d")}), d.Heard([]Hash{hash("d")})); err != nil {
		t.Fatal(err)
	}
}

func TestDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.jsonl")
	journal(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	want := kept{map[string]string{"umbrella": "consumer \"umbrella\" {}\n"}, map[string]Record{"acme": {Keys: []Key{{Hash: hash("a"), Created: 1}}}}, map[Hash]Revocation{hash("b"): {"acme", 7}}}
	if diff := cmp.Diff(want, read(t, path)); diff != "" {
		t.Errorf("read again: %s", diff)
	}
}

// TestTornDisk: wherever a crash cuts the file, what is read is what was before a
// change or after it, and the next change stands behind that.
func TestTornDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys.jsonl")
	journal(t, path)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := map[string]kept{"": {map[string]string{}, map[string]Record{}, map[Hash]Revocation{}}}
	cut := filepath.Join(dir, "cut.jsonl")
	put := func(b string) {
		t.Helper()
		if err := os.WriteFile(cut, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range text {
		lines := string(text[:i+1])
		end := strings.LastIndexByte(lines, '\n') + 1
		want, known := whole[lines[:end]]
		for _, tail := range []string{"", "\x00\x00\x00", "\x00\n"} {
			if tail != "" && end == 0 {
				continue
			}
			put(lines + tail)
			got := read(t, cut)
			if !known && tail == "" {
				want, known = got, true
				whole[lines] = got
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("cut at %d, with %q behind it: %s", i, tail, diff)
			}
		}
		if i%23 > 0 && text[i] != '\n' {
			continue // a sync each takes its time
		}
		d, err := OpenDisk(cut)
		if err == nil {
			d.sync = func(*os.File) error { return nil }
			err = d.Put("next", "x")
		}
		if err != nil {
			t.Fatalf("cut at %d: %v", i, err)
		}
		got := read(t, cut)
		if got.Consumers["next"] != "x" {
			t.Fatalf("cut at %d: the next change is lost", i)
		}
		delete(got.Consumers, "next")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("cut at %d, after the next change: %s", i, diff)
		}
	}
	if len(whole) < 10 {
		t.Errorf("%d states", len(whole))
	}
}

// TestDiskStaysSmall: what is past leaves the file, and nothing else does.
func TestDiskStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.jsonl")
	journal(t, path)
	want := read(t, path)
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	const n = spareLines + 100
	d.sync = func(*os.File) error { return nil }
	for i := range n {
		if err := d.Put("many", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > 10_000 || info.Mode().Perm() != 0o600 {
		t.Errorf("%d bytes, %v, %v", info.Size(), info.Mode(), err)
	}
	want.Consumers["many"] = fmt.Sprint(n - 1)
	if diff := cmp.Diff(want, read(t, path)); diff != "" {
		t.Errorf("read again: %s", diff)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v %v", entries, err)
	}
}

// TestBrokenDisk: what can't be read is never written over.
func TestBrokenDisk(t *testing.T) {
	const first = `{"format":"sidegate-keys-1"}` + "\n"
	for _, text := range []string{
		"x", "{}\n{}\n", `{"format":"sidegate-keys-9"}` + "\n", "\n" + first, first + "{\n" + first,
		first + `{"consumer":"a","keys":[{"sha256":"x"}]}` + "\n" + `{"consumer":"b","document":"x"}` + "\n",
	} {
		path := filepath.Join(t.TempDir(), "keys.jsonl")
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
		if consumers, keys, _ := d.Read(); len(consumers)+len(keys) > 0 {
			t.Errorf("%q: half of it is in use: %v %v", text, consumers, keys)
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != text {
			t.Errorf("%q became %q (%v)", text, now, err)
		}
	}
	// A folder that can't be written leaves what was.
	path := filepath.Join(t.TempDir(), "none", "keys.jsonl")
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

// FuzzDisk: whatever a file says, reading it harms nothing, and what is read is
// read the same after it has been written anew.
func FuzzDisk(f *testing.F) {
	path := filepath.Join(f.TempDir(), "keys.jsonl")
	journal(f, path)
	text, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"format":"sidegate-keys-1"}` + "\n" + `{"consumer":"a","keys":null,"document":null}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		read := func(text []byte) (*Disk, error) {
			d := &Disk{}
			d.clear()
			return d, d.readAll(bytes.NewReader(text))
		}
		d, err := read(text)
		if err != nil {
			return
		}
		if d.size > int64(len(text)) {
			t.Errorf("%d bytes count of %d", d.size, len(text))
		}
		var b bytes.Buffer
		size, lines, err := d.dump(&b)
		if err != nil || size != int64(b.Len()) || lines != bytes.Count(b.Bytes(), []byte{'\n'}) {
			t.Fatalf("%d bytes, %d lines, %v", size, lines, err)
		}
		again, err := read(b.Bytes())
		if err != nil || again.size != size {
			t.Fatalf("read again: %d of %d bytes, %v", again.size, size, err)
		}
		var want, got kept
		want.Consumers, want.Keys, want.Lifted = d.Read()
		got.Consumers, got.Keys, got.Lifted = again.Read()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("read again: %s", diff)
		}
	})
}
