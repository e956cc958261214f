package tls

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// KV is what shared storage needs of Consul, or of anything like it. Keys are
// paths with slashes, without one in front.
type KV interface {
	// Get reads a key consistently: a challenge's token must be seen by every
	// gateway as soon as the one that stored it goes on. A missing key gives
	// fs.ErrNotExist.
	Get(ctx context.Context, key string) ([]byte, error)
	Put(ctx context.Context, key string, value []byte) error
	// Delete removes a key; a missing one is no error.
	Delete(ctx context.Context, key string) error
	// List returns all keys that begin with prefix.
	List(ctx context.Context, prefix string) ([]string, error)
	// Lock blocks until the lock is held. lost is closed when it no longer is
	// (the session ended); it is never nil without an error. unlock gives it
	// back.
	Lock(ctx context.Context, key string) (lost <-chan struct{}, unlock func() error, err error)
}

// maxValue is what a value may have in Consul's KV store.
const maxValue = 512 << 10

// kvStorage keeps what certmagic stores in a KV that a fleet shares. All
// values are sealed: who can read the KV gets no private key.
type kvStorage struct {
	kv   KV
	seal *sealer

	mu   sync.Mutex // guards held
	held map[string]kvLock
}

type kvLock struct {
	lost   <-chan struct{}
	unlock func() error
}

func newKVStorage(kv KV, seal *sealer) *kvStorage {
	return &kvStorage{kv: kv, seal: seal, held: make(map[string]kvLock)}
}

// Lock implements certmagic.Locker; it blocks.
func (s *kvStorage) Lock(ctx context.Context, name string) error {
	lost, unlock, err := s.kv.Lock(ctx, path.Join("locks", certmagic.StorageKeys.Safe(name)))
	if err != nil {
		return err
	}
	if lost == nil {
		return fmt.Errorf("lock %q isn't held", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name] = kvLock{lost, unlock}
	return nil
}

// Unlock implements certmagic.Locker.
func (s *kvStorage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	l, ok := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if !ok {
		return fmt.Errorf("lock %q isn't held", name)
	}
	return l.unlock()
}

func (s *kvStorage) holding() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// lost returns the channel that closes when a held lock is gone; nil for one
// that isn't held.
func (s *kvStorage) lost(name string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[name].lost
}

// Store implements certmagic.Storage.
func (s *kvStorage) Store(ctx context.Context, key string, value []byte) error {
	b := s.seal.seal(key, value, time.Now())
	if len(b) > maxValue {
		return fmt.Errorf("%s: %d bytes are more than the shared storage takes", key, len(value))
	}
	return s.kv.Put(ctx, key, b)
}

// Load implements certmagic.Storage.
func (s *kvStorage) Load(ctx context.Context, key string) ([]byte, error) {
	value, _, err := s.open(ctx, key)
	return value, err
}

func (s *kvStorage) open(ctx context.Context, key string) ([]byte, time.Time, error) {
	b, err := s.kv.Get(ctx, key)
	if err != nil {
		return nil, time.Time{}, err
	}
	return s.seal.open(key, b)
}

// Delete implements certmagic.Storage: the key and all below it.
func (s *kvStorage) Delete(ctx context.Context, key string) error {
	keys, err := s.kv.List(ctx, key+"/")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, k := range append(keys, key) {
		if err := s.kv.Delete(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// Exists implements certmagic.Storage.
func (s *kvStorage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// List implements certmagic.Storage.
func (s *kvStorage) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	prefix := strings.Trim(dir, "/") + "/"
	if prefix == "/" {
		prefix = ""
	}
	all, err := s.kv.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fs.ErrNotExist
	}
	if recursive {
		return all, nil
	}
	seen := make(map[string]bool)
	var keys []string
	for _, k := range all {
		child, _, _ := strings.Cut(strings.TrimPrefix(k, prefix), "/")
		if child = prefix + child; !seen[child] {
			seen[child] = true
			keys = append(keys, child)
		}
	}
	return keys, nil
}

// Stat implements certmagic.Storage.
func (s *kvStorage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	value, at, err := s.open(ctx, key)
	if err == nil {
		return certmagic.KeyInfo{Key: key, Modified: at, Size: int64(len(value)), IsTerminal: true}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return certmagic.KeyInfo{}, err
	}
	if _, err := s.List(ctx, key, false); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: key}, nil
}

// sealer encrypts values for storage that others can read.
type sealer struct{ aead cipher.AEAD }

// sealerFile is the file that all gateways of a fleet have the same copy of.
const sealerFile = "storage.key"

func newSealer(stateDir string) (*sealer, error) {
	file := filepath.Join(stateDir, sealerFile)
	b, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("the key that seals shared certificates: %w; make it once with `openssl rand -base64 32` and give every gateway of the fleet the same file, mode 0600", err)
	}
	if fi, err := os.Stat(file); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others read it; want 0600", file, fi.Mode().Perm())
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("%s: not 32 bytes in base64", file)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead}, nil
}

// seal returns version, time, nonce and ciphertext. The name is bound to it:
// a value copied to another key doesn't open.
func (s *sealer) seal(name string, value []byte, at time.Time) []byte {
	head := binary.BigEndian.AppendUint64([]byte{1}, uint64(at.UnixNano()))
	return s.aead.Seal(head, nil, value, append(head[:9:9], name...))
}

func (s *sealer) open(name string, b []byte) ([]byte, time.Time, error) {
	if len(b) < 9 || b[0] != 1 {
		return nil, time.Time{}, fmt.Errorf("%s: not sealed by this version", name)
	}
	value, err := s.aead.Open(nil, nil, b[9:], append(b[:9:9], name...))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: sealed with another key than %s, or changed", name, sealerFile)
	}
	return value, time.Unix(0, int64(binary.BigEndian.Uint64(b[1:9]))), nil
}

var _ certmagic.Storage = (*kvStorage)(nil)
