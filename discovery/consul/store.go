package consul

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hashicorp/consul/api"
)

// Store is a part of Consul's KV that a fleet of gateways writes to:
// certificates, and the locks around them. Locks are Consul's own, by sessions
// (the library's), reads are consistent. It is safe for concurrent use.
type Store struct {
	api    *api.Client
	prefix string
	dc     string // whose KV is watched
}

// Store returns the part of the KV below prefix.
func (c *Client) Store(prefix string) (*Store, error) {
	client, err := c.library()
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	return &Store{client, prefix, c.dc}, nil
}

func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// Get reads a key; a missing one gives fs.ErrNotExist.
func (s *Store) Get(ctx context.Context, key string) ([]byte, error) {
	pair, _, err := s.api.KV().Get(s.prefix+key, consistent(ctx))
	if err != nil {
		return nil, err
	}
	if pair == nil {
		return nil, fmt.Errorf("consul: %s: %w", s.prefix+key, fs.ErrNotExist)
	}
	return pair.Value, nil
}

// Put writes a key.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	_, err := s.api.KV().Put(&api.KVPair{Key: s.prefix + key, Value: value}, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// Delete removes a key; a missing one is no error.
func (s *Store) Delete(ctx context.Context, key string) error {
	_, err := s.api.KV().Delete(s.prefix+key, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// DeleteIf removes a key if f takes its value, and the key hasn't been written
// meanwhile.
func (s *Store) DeleteIf(ctx context.Context, key string, f func(value []byte) bool) error {
	pair, _, err := s.api.KV().Get(s.prefix+key, consistent(ctx))
	if err != nil || pair == nil || !f(pair.Value) {
		return err
	}
	_, _, err = s.api.KV().DeleteCAS(pair, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// Change replaces the value of a key by what f makes of it, nil for a key that
// isn't there, or to have it removed. When another writer was faster, f is asked
// again. An error of f changes nothing and is returned as it is. What it writes
// is what WatchKV sees, also in another datacenter than the agent's.
func (s *Store) Change(ctx context.Context, key string, f func(value []byte) ([]byte, error)) error {
	for ctx.Err() == nil {
		read := consistent(ctx)
		read.Datacenter = s.dc
		pair, _, err := s.api.KV().Get(s.prefix+key, read)
		if err != nil {
			return err
		}
		var old []byte
		next := &api.KVPair{Key: s.prefix + key} // ModifyIndex 0: only if there is none
		if pair != nil {
			old, next.ModifyIndex = pair.Value, pair.ModifyIndex
		}
		if next.Value, err = f(old); err != nil {
			return err
		}
		var done bool
		options := (&api.WriteOptions{Datacenter: s.dc}).WithContext(ctx)
		switch {
		case next.Value != nil:
			done, _, err = s.api.KV().CAS(next, options)
		case pair != nil:
			done, _, err = s.api.KV().DeleteCAS(pair, options)
		default:
			done = true
		}
		if done || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// List returns all keys that begin with prefix.
func (s *Store) List(ctx context.Context, prefix string) ([]string, error) {
	keys, _, err := s.api.KV().Keys(s.prefix+prefix, "", consistent(ctx))
	if err != nil {
		return nil, err
	}
	for i := range keys {
		keys[i] = keys[i][len(s.prefix):]
	}
	return keys, nil
}

// Lock blocks until the lock is held. lost is closed when it no longer is: the
// session ended, or Consul is away. The library starts the session and renews
// it until unlock.
func (s *Store) Lock(ctx context.Context, key string) (lost <-chan struct{}, unlock func() error, err error) {
	l, err := s.api.LockOpts(&api.LockOptions{Key: s.prefix + key, SessionName: "sidegate"})
	if err != nil {
		return nil, nil, err
	}
	lost, err = l.Lock(ctx.Done())
	if err != nil {
		return nil, nil, err
	}
	if lost == nil { // given up: ctx ended
		return nil, nil, errors.Join(ctx.Err(), fmt.Errorf("consul: lock %s isn't held", s.prefix+key))
	}
	return lost, l.Unlock, nil
}

// Load reads a key and the index of its last change, for Swap. A missing one
// gives fs.ErrNotExist, and the index 0.
func (s *Store) Load(ctx context.Context, key string) ([]byte, uint64, error) {
	pair, _, err := s.api.KV().Get(s.prefix+key, consistent(ctx))
	if err != nil {
		return nil, 0, err
	}
	if pair == nil {
		return nil, 0, fmt.Errorf("consul: %s: %w", s.prefix+key, fs.ErrNotExist)
	}
	return pair.Value, pair.ModifyIndex, nil
}

// Swap writes a key if the index of its last change is still that one, 0: if
// there is none. It reports whether it did.
func (s *Store) Swap(ctx context.Context, key string, value []byte, index uint64) (bool, error) {
	ok, _, err := s.api.KV().CAS(&api.KVPair{Key: s.prefix + key, Value: value, ModifyIndex: index}, (&api.WriteOptions{}).WithContext(ctx))
	return ok, err
}
