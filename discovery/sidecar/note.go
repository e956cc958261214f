package sidecar

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Bounds of the note.
const (
	noteName    = "registered.json"
	maxNote     = 1 << 20
	maxNoted    = 1024
	ownerLength = 8 // bytes
)

// note is what a state directory remembers: which ids may be registered, by
// this run or one before it, and who we are. Only one goroutine uses it at a
// time.
type note struct {
	path  string // "": nothing is remembered
	Owner string
	IDs   []string
}

// readNote reads a directory's note. A note that can't be read is an error, and
// an empty one is given: its services will go when their checks have failed for
// long enough.
func readNote(dir string) (*note, error) {
	n := new(note)
	if dir == "" {
		return n, nil
	}
	path := filepath.Join(dir, noteName)
	text, err := os.ReadFile(path)
	if err == nil && len(text) > maxNote {
		err = fmt.Errorf("more than %d bytes", maxNote)
	}
	if err == nil {
		if err = json.Unmarshal(text, n); err != nil {
			*n = note{}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if len(n.IDs) > maxNoted {
		n.IDs = n.IDs[:maxNoted]
	}
	if n.Owner == "" {
		b := make([]byte, ownerLength)
		_, _ = rand.Read(b) // never fails
		n.Owner = hex.EncodeToString(b)
	}
	n.path = path
	if err != nil {
		return n, fmt.Errorf("sidecar: what an earlier run has registered isn't known: %s: %w", path, err)
	}
	return n, nil
}

// add notes an id, unless it is noted already.
func (n *note) add(id string) error {
	if slices.Contains(n.IDs, id) {
		return nil
	}
	n.IDs = append(n.IDs, id)
	err := n.write()
	if err != nil {
		n.IDs = n.IDs[:len(n.IDs)-1] // so that it is tried again
	}
	return err
}

// remove forgets an id.
func (n *note) remove(id string) error {
	i := slices.Index(n.IDs, id)
	if i < 0 {
		return nil
	}
	n.IDs = slices.Delete(n.IDs, i, i+1)
	return n.write()
}

// write replaces the file as a whole, so that a crash leaves the old one or the
// new one.
func (n *note) write() error {
	if n.path == "" {
		return nil
	}
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(n); err != nil {
		return err
	}
	dir := filepath.Dir(n.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp := n.path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, n.path)
}

// has says whether an id is noted.
func (n *note) has(id string) bool { return slices.Contains(n.IDs, id) }
