package consumer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
)

const (
	diskFormat = "sidegate-keys-1"
	maxDisk    = 256 << 20
)

// Disk keeps in one file what of consumers and keys this node alone knows: all
// of it without Consul, and with it the revocations that Consul hasn't heard of.
// A change is on the disk when it is reported as done; a crash leaves what was
// before it, or after it.
type Disk struct {
	path string

	mu     sync.Mutex // guards what follows, and is held while the file is written
	now    diskFile
	broken error // the file can't be read: nothing may take its place
}

type diskFile struct {
	Format    string              `json:"format"`
	Consumers map[string]string   `json:"consumers,omitempty"` // as documents
	Keys      map[string]Record   `json:"keys,omitempty"`
	Lifted    map[Hash]Revocation `json:"revocations,omitempty"`
}

// Revocation is one on its way to where the key is kept.
type Revocation struct {
	Consumer string `json:"consumer"`
	At       int64  `json:"at"`
}

// OpenDisk reads the file. One that isn't there is empty; one that can't be read
// is, too, and doesn't change any more: the error says why.
func OpenDisk(path string) (*Disk, error) {
	d := &Disk{path: path}
	d.now.Format = diskFormat
	d.broken = d.load()
	return d, d.broken
}

func (d *Disk) load() error {
	info, err := os.Stat(d.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > maxDisk {
		return fmt.Errorf("%s: has %d bytes; at most %d are read", d.path, info.Size(), maxDisk)
	}
	text, err := os.ReadFile(d.path)
	if err != nil {
		return err
	}
	var f diskFile
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	if f.Format != diskFormat {
		return fmt.Errorf("%s: the format %.40q is another version's", d.path, f.Format)
	}
	d.now = f
	return nil
}

// Read returns what is kept.
func (d *Disk) Read() (consumers map[string]string, keys map[string]Record, revoked map[Hash]Revocation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.now.Consumers), maps.Clone(d.now.Keys), maps.Clone(d.now.Lifted)
}

// Lifted returns the revocations that are kept.
func (d *Disk) Lifted() map[Hash]Revocation {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.now.Lifted)
}

// Change replaces the record of a consumer by what f makes of it, and returns it.
func (d *Disk) Change(name string, f func(*Record) error) (Record, error) {
	var out Record
	err := d.change(func(now *diskFile) error {
		r := Record{Keys: append([]Key(nil), now.Keys[name].Keys...)}
		if err := f(&r); err != nil {
			return err
		}
		now.Keys = with(now.Keys, name, r, len(r.Keys) == 0)
		out = r
		return nil
	})
	return out, err
}

// Put keeps a consumer's document; "" is none.
func (d *Disk) Put(name, document string) error {
	return d.change(func(now *diskFile) error {
		now.Consumers = with(now.Consumers, name, document, document == "")
		return nil
	})
}

// Lift keeps a revocation until Heard.
func (d *Disk) Lift(h Hash, r Revocation) error {
	return d.change(func(now *diskFile) error {
		now.Lifted = with(now.Lifted, h, r, false)
		return nil
	})
}

// Heard forgets revocations.
func (d *Disk) Heard(list []Hash) error {
	d.mu.Lock()
	some := false
	for _, h := range list {
		_, ok := d.now.Lifted[h]
		some = some || ok
	}
	d.mu.Unlock()
	if !some {
		return nil
	}
	return d.change(func(now *diskFile) error {
		for _, h := range list {
			now.Lifted = with(now.Lifted, h, Revocation{}, true)
		}
		return nil
	})
}

// with is a copy of m with one entry other, or without it.
func with[K comparable, V any](m map[K]V, key K, v V, remove bool) map[K]V {
	out := maps.Clone(m)
	if out == nil {
		out = map[K]V{}
	}
	out[key] = v
	if remove {
		delete(out, key)
	}
	return out
}

func (d *Disk) change(f func(*diskFile) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return fmt.Errorf("what is kept on disk can't be read, and so isn't changed: %w", d.broken)
	}
	next := d.now
	if err := f(&next); err != nil {
		return err
	}
	if err := write(d.path, &next); err != nil {
		return fmt.Errorf("can't be kept on disk: %w", err)
	}
	d.now = next
	return nil
}

// write puts f in the place of the file: all of it or nothing, and durably.
func write(path string, f *diskFile) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	t, err := os.CreateTemp(dir, ".keys-*") // 0600
	if err != nil {
		return err
	}
	_, err = t.Write(text)
	if err == nil {
		err = t.Sync()
	}
	if e := t.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		_ = os.Remove(t.Name()) // what is wrong is told already
		return err
	}
	return syncFolder(dir)
}

// syncFolder makes a rename last over a power failure.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
