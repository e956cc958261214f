package tls

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	ticketRotation = 12 * time.Hour
	ticketKeep     = 2
)

// ticketKeys encrypts the session state that clients hold, so that they resume
// without a full handshake. The newest key seals, and the one before opens,
// too; a session can be resumed for 12 to 24 hours. The keys are on disk, and
// so it can be after a restart.
type ticketKeys struct {
	now  func() time.Time
	path string
	keys atomic.Pointer[[]ticketKey] // the newest first

	mu  sync.Mutex // held while rotating; guards err
	err error      // why the keys are in memory alone
}

type ticketKey struct {
	Made time.Time `json:"made"`
	ID   []byte    `json:"id"`  // 8 bytes, in front of each ticket
	Key  []byte    `json:"key"` // 32 bytes
	aead cipher.AEAD
}

func newTicketKeys(path string, now func() time.Time) (*ticketKeys, error) {
	t := &ticketKeys{now: now, path: path}
	t.keys.Store(&[]ticketKey{})
	return t, t.rotate()
}

// problem is why the keys don't survive a restart; nil when they do.
func (t *ticketKeys) problem() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// rotate brings the keys up to date: what the file holds, with a new key in
// front when the newest is 12 hours old. Its error is that of making a key;
// that of the file is kept for problem.
func (t *ticketKeys) rotate() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var made error
	t.err = withFileLock(filepath.Join(filepath.Dir(t.path), "tickets.lock"), func() error {
		keys, err := t.load()
		if err != nil {
			return err
		}
		stored := keys
		if len(keys) == 0 {
			keys = *t.keys.Load()
		}
		if keys, made = t.advance(keys); made != nil {
			return nil
		}
		defer t.keys.Store(&keys)
		if len(stored) > 0 && string(stored[0].ID) == string(keys[0].ID) {
			return nil
		}
		b, err := json.Marshal(keys)
		if err != nil {
			return err
		}
		return writeSecret(t.path, b)
	})
	if t.err == nil || made != nil {
		return made
	}
	t.err = fmt.Errorf("session ticket keys: %w; sessions don't survive a restart", t.err)
	keys, err := t.advance(*t.keys.Load())
	if err == nil {
		t.keys.Store(&keys)
	}
	return err
}

// load reads the file. One that is missing or broken has no keys: all that is
// lost with them is some resumptions.
func (t *ticketKeys) load() ([]ticketKey, error) {
	b, err := readFile(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []ticketKey
	if json.Unmarshal(b, &keys) != nil {
		return nil, nil
	}
	for i := range keys {
		if len(keys[i].ID) != 8 || keys[i].seal() != nil {
			return nil, nil
		}
	}
	return keys, nil
}

// advance returns keys without those too old, and with a new one if due.
func (t *ticketKeys) advance(keys []ticketKey) ([]ticketKey, error) {
	now := t.now()
	next := make([]ticketKey, 0, ticketKeep)
	if len(keys) == 0 || now.Sub(keys[0].Made) >= ticketRotation || keys[0].Made.After(now.Add(time.Minute)) {
		k := ticketKey{Made: now.Round(0), ID: make([]byte, 8), Key: make([]byte, 32)}
		rand.Read(k.ID)
		rand.Read(k.Key)
		if err := k.seal(); err != nil {
			return nil, err
		}
		next = append(next, k)
	}
	for _, k := range keys {
		if len(next) < ticketKeep && now.Sub(k.Made) < ticketKeep*ticketRotation {
			next = append(next, k)
		}
	}
	return next, nil
}

func (k *ticketKey) seal() error {
	if len(k.Key) != 32 {
		return fmt.Errorf("a key of %d bytes", len(k.Key))
	}
	block, err := aes.NewCipher(k.Key)
	if err != nil {
		return err
	}
	k.aead, err = cipher.NewGCM(block)
	return err
}

// ticketScope ties tickets to where they may be used: a session that began on
// a listener that doesn't ask for client certificates must not go on on one
// that does, nor under another server name.
type ticketScope struct {
	t     *ticketKeys
	label string
}

func (s ticketScope) context(cs tls.ConnectionState) []byte {
	return append(append(make([]byte, 0, 64), s.label...), cs.ServerName...)
}

// wrap is crypto/tls's Config.WrapSession: id, nonce, sealed state.
func (s ticketScope) wrap(cs tls.ConnectionState, state *tls.SessionState) ([]byte, error) {
	plain, err := state.Bytes()
	if err != nil {
		return nil, err
	}
	k := &(*s.t.keys.Load())[0]
	n := k.aead.NonceSize()
	out := make([]byte, 8+n, 8+n+len(plain)+k.aead.Overhead())
	copy(out, k.ID)
	rand.Read(out[8:])
	return k.aead.Seal(out, out[8:8+n], plain, s.context(cs)), nil
}

// unwrap is crypto/tls's Config.UnwrapSession; nil means a full handshake.
func (s ticketScope) unwrap(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
	if len(ticket) < 8 {
		return nil, nil
	}
	for i := range *s.t.keys.Load() {
		k := &(*s.t.keys.Load())[i]
		if string(k.ID) != string(ticket[:8]) {
			continue
		}
		n := k.aead.NonceSize()
		if len(ticket) < 8+n || s.t.now().Sub(k.Made) >= ticketKeep*ticketRotation {
			return nil, nil
		}
		plain, err := k.aead.Open(nil, ticket[8:8+n], ticket[8+n:], s.context(cs))
		if err != nil {
			return nil, nil // for another listener or name, or forged
		}
		state, err := tls.ParseSessionState(plain)
		if err != nil {
			return nil, nil
		}
		return state, nil
	}
	return nil, nil
}
