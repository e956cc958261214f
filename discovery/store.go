package discovery

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Bounds of the store.
const (
	maxSnapshot     = 32 << 20 // bytes of one entry
	maxSnapshotKeys = 16384    // entries waiting, and files in the folder
	snapshotDelay   = 500 * time.Millisecond
	snapshotSuffix  = ".snap"
	newPrefix       = ".new-" // of a file not yet complete
	snapshotFormat  = "sidegate-snapshot-1"
)

// Snapshots keeps the last known instances, claims and KV entries on disk, so
// that a restart without the source still serves. Writing is the work of Run
// alone, delayed a little so that a burst of changes becomes one write. A full
// disk or a broken file is logged once and harms nothing but the snapshot.
type Snapshots struct {
	dir   string
	log   logrus.FieldLogger
	delay time.Duration
	wake  chan struct{} // capacity 1; nobody closes it

	writing sync.Mutex // held while files are written; taken before mu

	mu      sync.Mutex // guards what follows
	pending map[string]pendingWrite
	failing bool // the last write failed, which has been logged
	away    bool // the folder is another process's (Yield)
	bad     map[string]bool
	watched map[*snapshotWatch]struct{}
}

// pendingWrite is a value to be stored; marshalled by the worker.
type pendingWrite struct {
	value any
	at    time.Time
}

// header is a snapshot file's first line; the value follows it.
type snapshotHeader struct {
	Format string    `json:"format"`
	Key    string    `json:"key"`
	Saved  time.Time `json:"saved"`
	Size   int       `json:"size"`
	SHA256 string    `json:"sha256"`
}

// NewSnapshots keeps snapshots in dir, which is made when the first one is
// written. Without a dir nothing is kept.
func NewSnapshots(dir string, log logrus.FieldLogger) *Snapshots {
	return &Snapshots{
		dir: dir, log: log.WithField("component", "snapshots"), delay: snapshotDelay,
		wake:    make(chan struct{}, 1),
		pending: make(map[string]pendingWrite),
		bad:     make(map[string]bool),
		watched: make(map[*snapshotWatch]struct{}),
	}
}

// Run writes what is saved until ctx ends. Call Close after it for the rest.
func (s *Snapshots) Run(ctx context.Context) error {
	s.sweep()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		t := time.NewTimer(s.delay)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil // Close writes the rest
		case <-t.C:
		}
		// A failed write was logged by flush and stays pending; try it again,
		// but not at once.
		if s.flush() != nil {
			s.retryLater(ctx)
		}
	}
}

// retryLater waits before the failed writes are tried again.
func (s *Snapshots) retryLater(ctx context.Context) {
	t := time.NewTimer(60 * s.delay)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
		s.poke()
	}
}

// Flush writes what isn't written yet, now.
func (s *Snapshots) Flush() error { return s.flush() }

// Close writes what isn't written yet.
func (s *Snapshots) Close() error { return s.flush() }

// Yield writes what has changed, and nothing after that: another process has the
// folder, which hears the same.
func (s *Snapshots) Yield() error {
	err := s.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
	return err
}

// Resume writes what has changed since Yield, and from here on.
func (s *Snapshots) Resume() {
	s.mu.Lock()
	s.away = false
	s.mu.Unlock()
	s.poke()
}

// Save keeps v under key, replacing what was there. It doesn't touch the disk;
// v must not change afterwards.
func (s *Snapshots) Save(key string, v any) {
	if s.dir == "" {
		return
	}
	s.mu.Lock()
	_, known := s.pending[key]
	if known || len(s.pending) < maxSnapshotKeys {
		s.pending[key] = pendingWrite{v, time.Now()}
	}
	s.mu.Unlock()
	s.poke()
}

func (s *Snapshots) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // the worker has been told already
	}
}

// Load fills v with what was last stored under key, and says how old it is.
// What is damaged counts as not there.
func (s *Snapshots) Load(key string, v any) (age time.Duration, ok bool) {
	if s.dir == "" {
		return 0, false
	}
	path := s.path(key)
	saved, err := readSnapshot(path, key, v)
	switch {
	case err == nil:
		return max(0, time.Since(saved)), true
	case errors.Is(err, os.ErrNotExist):
		return 0, false
	}
	s.mu.Lock()
	first := !s.bad[path] && len(s.bad) < maxSnapshotKeys
	if first {
		s.bad[path] = true
	}
	s.mu.Unlock()
	if first {
		s.log.WithError(err).WithField("file", path).Warn("stored snapshot can't be used; going on without it")
	}
	return 0, false
}

func (s *Snapshots) path(key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:16])+snapshotSuffix)
}

// flush writes all that is pending. What fails stays pending, unless a newer
// value came meanwhile.
func (s *Snapshots) flush() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	if s.away {
		s.mu.Unlock()
		return nil
	}
	batch := s.pending
	s.pending = make(map[string]pendingWrite)
	s.mu.Unlock()
	var failed error
	for key, p := range batch {
		err := s.write(key, p)
		if err == nil {
			continue
		}
		failed = err
		s.mu.Lock()
		if _, newer := s.pending[key]; !newer && !errors.Is(err, errUnstorable) {
			s.pending[key] = p
		}
		s.mu.Unlock()
	}
	s.report(failed, len(batch))
	return failed
}

// report logs the first failure, and the end of failing.
func (s *Snapshots) report(failed error, tried int) {
	s.mu.Lock()
	was := s.failing
	if tried > 0 {
		s.failing = failed != nil
	}
	is := s.failing
	s.mu.Unlock()
	switch {
	case is && !was:
		s.log.WithError(failed).Warn("snapshot can't be written; a restart without Consul may lack instances")
	case was && !is:
		s.log.Info("snapshots are written again")
	}
}

// errUnstorable marks a value that no retry can store.
var errUnstorable = errors.New("can't be stored")

func (s *Snapshots) write(key string, p pendingWrite) error {
	body, err := json.Marshal(p.value)
	if err != nil {
		return fmt.Errorf("snapshot %q: %w: %w", key, errUnstorable, err)
	}
	if len(body) > maxSnapshot {
		return fmt.Errorf("snapshot %q: %w: %d bytes, at most %d", key, errUnstorable, len(body), maxSnapshot)
	}
	sum := sha256.Sum256(body)
	head, err := json.Marshal(snapshotHeader{Format: snapshotFormat, Key: key, Saved: p.at.UTC(),
		Size: len(body), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		return fmt.Errorf("snapshot %q: %w: %w", key, errUnstorable, err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return replaceFile(s.path(key), append(append(head, '\n'), body...))
}

// replaceFile puts data in path all or nothing: a crash leaves the old file.
// Durability against power loss isn't worth an fsync of each of thousands of
// files: the checksum finds a torn one.
func replaceFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), newPrefix+"*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func readSnapshot(path, key string, v any) (saved time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return saved, err
	}
	defer f.Close()
	const maxHead = 64 << 10
	data, err := io.ReadAll(io.LimitReader(f, maxSnapshot+maxHead+1))
	if err != nil {
		return saved, err
	}
	line, body, found := bytes.Cut(data, []byte{'\n'})
	var h snapshotHeader
	if !found || json.Unmarshal(line, &h) != nil || h.Format != snapshotFormat {
		return saved, errors.New("not a snapshot")
	}
	sum := sha256.Sum256(body)
	if h.Key != key || h.Size != len(body) || h.SHA256 != hex.EncodeToString(sum[:]) {
		return saved, errors.New("snapshot is damaged")
	}
	if err := json.Unmarshal(body, v); err != nil {
		return saved, fmt.Errorf("snapshot: %w", err)
	}
	return h.Saved, nil
}

// sweep removes what a crash left half written and, beyond maxSnapshotKeys, the
// files not written for the longest time, so that the folder doesn't grow for
// ever. Age alone is no reason: a quiet service's set may be right for years.
func (s *Snapshots) sweep() {
	if s.dir == "" {
		return
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return // not there yet, or unreadable, which the first write reports
	}
	var kept []os.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		switch {
		case strings.HasPrefix(e.Name(), newPrefix):
			s.drop(e.Name())
		case strings.HasSuffix(e.Name(), snapshotSuffix):
			kept = append(kept, info)
		}
	}
	slices.SortFunc(kept, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, old := range kept[min(len(kept), maxSnapshotKeys):] {
		s.drop(old.Name())
	}
}

func (s *Snapshots) drop(name string) {
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		s.log.WithError(err).Debug("old snapshot can't be removed")
	}
}

// Status tells of each query that is being watched, sorted by query.
func (s *Snapshots) Status() []SnapshotStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]SnapshotStatus, 0, len(s.watched))
	for w := range s.watched {
		list = append(list, w.status)
	}
	slices.SortFunc(list, func(a, b SnapshotStatus) int { return strings.Compare(a.Query, b.Query) })
	return list
}
