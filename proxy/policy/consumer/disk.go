package consumer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

const (
	diskFormat = "sidegate-keys-1"
	maxLine    = 4 << 20
	// The file is written anew when most of it is of the past.
	spareLines = 1000
	spareBytes = 16 << 20
)

// Disk keeps in one file what of consumers and keys this node alone knows: all
// of it without Consul, and with it the revocations that Consul hasn't heard of.
//
// The file is a journal: a line for each change, which is appended and synced
// before the change is reported as done. A crash leaves what was before a change
// or after it: a last line that isn't whole was reported to nobody, and doesn't
// count. Now and then the file is written anew, with what holds alone.
type Disk struct {
	path string
	sync func(*os.File) error // tests of thousands of changes don't

	mu        sync.Mutex // guards what follows, and is held while the file is written
	consumers map[string]string
	keys      map[string]Record
	lifted    map[Hash]Revocation
	file      *os.File // nil: nothing has been written yet
	size      int64    // of what counts
	lines     int
	base      int64 // size when the file was written anew, or read
	broken    error // nothing may be added to the file: it can't be read
	away      bool  // nor then: it is another process's (Yield)
}

// Revocation is one on its way to where the key is kept.
type Revocation struct {
	Consumer string `json:"consumer"`
	At       int64  `json:"at"`
}

// line is a change: of one of these.
type line struct {
	Format   string      `json:"format,omitempty"` // the first line
	Consumer string      `json:"consumer,omitempty"`
	Document *string     `json:"document,omitempty"` // of the consumer; "": none
	Keys     *[]Key      `json:"keys,omitempty"`     // of the consumer, all of them
	Revoked  *Hash       `json:"revoked,omitempty"`
	By       *Revocation `json:"by,omitempty"` // what of Revoked is kept; nil: it was heard of
}

// OpenDisk reads the file. One that isn't there is empty; one that can't be read
// is, too, and doesn't change any more: the error says why. It writes nothing.
func OpenDisk(path string) (*Disk, error) {
	d := &Disk{path: path, sync: (*os.File).Sync}
	d.clear()
	if d.broken = d.load(); d.broken != nil {
		d.clear()
		d.broken = fmt.Errorf("%s: %w", path, d.broken)
	}
	return d, d.broken
}

func (d *Disk) clear() {
	d.consumers, d.keys, d.lifted = map[string]string{}, map[string]Record{}, map[Hash]Revocation{}
}

func (d *Disk) load() error {
	f, err := os.Open(d.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return d.readAll(f)
}

func (d *Disk) readAll(from io.Reader) error {
	r := bufio.NewReaderSize(from, 64<<10)
	for {
		text, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if d.lines == 0 && !bytes.HasPrefix(encode(&line{Format: diskFormat}), text) {
				return errors.New("isn't a file of keys")
			}
			return nil // what is behind the last line break was never done
		}
		if err != nil {
			return err
		}
		if err := d.read(text); err != nil {
			if _, more := r.Peek(1); d.lines > 0 && errors.Is(more, io.EOF) {
				return nil // torn, by a power failure
			}
			return fmt.Errorf("line %d: %w", d.lines+1, err)
		}
		d.size += int64(len(text))
		d.base = d.size
	}
}

// read takes over a line.
func (d *Disk) read(text []byte) error {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return err
	}
	if d.lines == 0 && l.Format != diskFormat {
		return fmt.Errorf("the format %.40q isn't one that this version reads", l.Format)
	}
	d.lines++
	d.apply(&l)
	return nil
}

func (d *Disk) apply(l *line) {
	switch {
	case l.Document != nil && *l.Document == "":
		delete(d.consumers, l.Consumer)
	case l.Document != nil:
		d.consumers[l.Consumer] = *l.Document
	case l.Keys != nil && len(*l.Keys) == 0:
		delete(d.keys, l.Consumer)
	case l.Keys != nil:
		d.keys[l.Consumer] = Record{*l.Keys}
	case l.Revoked != nil && l.By == nil:
		delete(d.lifted, *l.Revoked)
	case l.Revoked != nil:
		d.lifted[*l.Revoked] = *l.By
	}
}

// Read returns what is kept.
func (d *Disk) Read() (consumers map[string]string, keys map[string]Record, lifted map[Hash]Revocation) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.consumers), maps.Clone(d.keys), maps.Clone(d.lifted)
}

// Lifted returns the revocations that are kept.
func (d *Disk) Lifted() map[Hash]Revocation {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.lifted)
}

// Change replaces the record of a consumer by what f makes of it, and returns it.
func (d *Disk) Change(name string, f func(*Record) error) (Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := Record{slices.Clone(d.keys[name].Keys)}
	if err := f(&r); err != nil {
		return Record{}, err
	}
	if r.Keys == nil {
		r.Keys = []Key{}
	}
	return r, d.add(&line{Consumer: name, Keys: &r.Keys})
}

// Put keeps a consumer's document; "" is none.
func (d *Disk) Put(name, document string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.add(&line{Consumer: name, Document: &document})
}

// Lift keeps a revocation until Heard.
func (d *Disk) Lift(h Hash, r Revocation) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.add(&line{Revoked: &h, By: &r})
}

// Heard forgets revocations.
func (d *Disk) Heard(list []Hash) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines []*line
	for _, h := range list {
		if _, ok := d.lifted[h]; ok {
			lines = append(lines, &line{Revoked: &h})
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return d.add(lines...)
}

// add appends lines, and then does what they say.
func (d *Disk) add(lines ...*line) error {
	if d.away {
		return ErrAway
	}
	if d.broken != nil {
		return fmt.Errorf("what is kept on disk can't be read, and so isn't changed: %w", d.broken)
	}
	if err := d.append(lines); err != nil {
		return fmt.Errorf("can't be kept on disk: %w", err)
	}
	for _, l := range lines {
		d.apply(l)
	}
	past := d.lines > 2*(len(d.consumers)+len(d.keys)+len(d.lifted))+spareLines
	if past || d.size > 2*d.base+spareBytes {
		// The change is done in any case; a full disk is met by the next one.
		if d.rewrite() != nil {
			d.base = d.size
		}
	}
	return nil
}

func (d *Disk) append(lines []*line) error {
	if err := d.open(); err != nil {
		return err
	}
	var b bytes.Buffer
	if d.lines == 0 {
		b.Write(encode(&line{Format: diskFormat}))
	}
	for _, l := range lines {
		text := encode(l)
		if len(text) > maxLine {
			return fmt.Errorf("%d bytes are too much", len(text))
		}
		b.Write(text)
	}
	_, err := d.file.WriteAt(b.Bytes(), d.size)
	if err == nil {
		err = d.sync(d.file)
	}
	if err != nil {
		return errors.Join(err, d.file.Truncate(d.size)) // as if nothing had been written
	}
	d.size += int64(b.Len())
	d.lines += bytes.Count(b.Bytes(), []byte{'\n'})
	return nil
}

// open opens the file for writing, without what a crash has left behind.
func (d *Disk) open() error {
	if d.file != nil {
		return nil
	}
	torn, _ := filepath.Glob(filepath.Join(filepath.Dir(d.path), tempName)) // the pattern is right
	for _, path := range torn {
		_ = os.Remove(path) // it harms nobody
	}
	f, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(d.size), syncFolder(filepath.Dir(d.path))); err != nil {
		return errors.Join(err, f.Close())
	}
	d.file = f
	return nil
}

func encode(l *line) []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic("consumer: a line can't be marshalled: " + err.Error()) // text and numbers only
	}
	return append(b, '\n')
}

// ErrAway says that another process keeps the file now.
var ErrAway = errors.New("another process of this gateway takes over, or has: it keeps the keys and consumers. Try again")

// Yield leaves the file to another process. What is known stays, and can't be changed.
func (d *Disk) Yield() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = true
	if d.file == nil {
		return nil
	}
	f := d.file
	d.file = nil
	return f.Close() // each line was synced
}

// Claim reads the file anew, once no other process keeps it, and may change it from
// here on.
func (d *Disk) Claim() error {
	err := d.Again()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.away = false
	return err
}

// Again reads the file anew, as another process has it now.
func (d *Disk) Again() error {
	now, err := OpenDisk(d.path)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.consumers, d.keys, d.lifted = now.consumers, now.keys, now.lifted
	d.size, d.lines, d.base, d.broken = now.size, now.lines, now.base, now.broken
	return err
}

const tempName = ".keys-*"

// rewrite puts a file with what holds in the place of the journal: all of it or
// nothing.
func (d *Disk) rewrite() error {
	dir := filepath.Dir(d.path)
	f, err := os.CreateTemp(dir, tempName) // 0600
	if err != nil {
		return err
	}
	size, lines, err := d.dump(f)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), d.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	_ = d.file.Close() // of the old one, which is gone
	d.file, d.size, d.lines, d.base = f, size, lines, size
	if d.broken = syncFolder(dir); d.broken != nil { // the old one might come back, without what is added now
		d.broken = fmt.Errorf("%s: %w", dir, d.broken)
	}
	return d.broken
}

// dump writes what holds.
func (d *Disk) dump(to io.Writer) (size int64, lines int, err error) {
	w := bufio.NewWriterSize(to, 64<<10)
	put := func(l *line) {
		n, _ := w.Write(encode(l)) // Flush tells
		size += int64(n)
		lines++
	}
	put(&line{Format: diskFormat})
	for name, text := range d.consumers {
		put(&line{Consumer: name, Document: &text})
	}
	for name, r := range d.keys {
		put(&line{Consumer: name, Keys: &r.Keys})
	}
	for h, r := range d.lifted {
		put(&line{Revoked: &h, By: &r})
	}
	return size, lines, w.Flush()
}

// syncFolder makes a new name last over a power failure.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
