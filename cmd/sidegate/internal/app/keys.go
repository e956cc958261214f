package app

import (
	"bytes"
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

const (
	// firstKeys is how long a start waits for the keys that Consul has.
	firstKeys = time.Second
	// keysPatience is how long the keys last known wait for those there are: longer
	// than instances do, for one may have been revoked since.
	keysPatience = 700 * time.Millisecond
	// keysTime bounds one change of keys in Consul.
	keysTime = 5 * time.Second
	// keysRetry is how often a revocation is told to Consul while that fails.
	keysRetry = time.Second
	keysMost  = 30 * time.Second
)

// keysPrefix is where the fleet's keys are, beside what lies below consul.kv, as
// bans are: a new key isn't a change of the configuration.
func keysPrefix(kv string) string { return strings.TrimSuffix(kv, "/") + "-keys/" }

// keysFile is what, in state_dir, a node keeps of keys by itself.
const keysFile = "keys.jsonl"

// keyStore keeps the keyring the same as what Consul and this node's disk say.
// Consul has the keys that were made by command, and consumers; the disk has them
// where there is no Consul, and revocations that Consul hasn't heard of.
type keyStore struct {
	log       logrus.FieldLogger
	ring      *consumer.Keyring
	disk      *consumer.Disk
	broken    error // why the disk can't be read
	consul    *consulPlace
	snapshots *discovery.Snapshots
	options   config.Options

	changing sync.Mutex    // held while an operator's change is made; taken before mu
	wake     chan struct{} // capacity 1: there is something to tell Consul
	first    chan struct{} // closed when Consul's keys are known, or there is no Consul

	mu        sync.Mutex      // guards what follows
	known     bool            // first is closed
	live      bool            // Consul has said what keys there are
	stored    time.Time       // when the keys in use were last known to be right; zero: live
	heard     []consumer.Hash // revocations that Consul knows, and that are on the disk yet
	raw       map[string][]byte
	badKeys   map[string]string // records that can't be read, by consumer
	documents documents
	sets      []string // of policies that consumers may use
}

// newKeyStore reads what the disk has.
func newKeyStore(log logrus.FieldLogger, path string, place *consulPlace, snapshots *discovery.Snapshots, env func(string) (string, bool)) *keyStore {
	s := &keyStore{
		log: log, ring: consumer.NewKeyring(), consul: place, snapshots: snapshots, options: config.Options{Env: env},
		wake: make(chan struct{}, 1), first: make(chan struct{}), badKeys: map[string]string{},
	}
	if s.disk, s.broken = consumer.OpenDisk(path); s.broken != nil {
		log.WithError(s.broken).Error("the keys and consumers of this node's disk can't be read: nobody gets in by them, and none is changed")
	}
	s.load(s.disk)
	return s
}

// load takes over what a disk has.
func (s *keyStore) load(disk *consumer.Disk) {
	texts, keys, lifted := disk.Read()
	for name, text := range texts {
		s.documents.set(consumer.FromDisk, name, text)
	}
	revoked := map[consumer.Hash]int64{}
	for h, r := range lifted {
		revoked[h] = r.At
	}
	s.ring.Lift(revoked)
	s.ring.Update(consumer.FromDisk, keys)
}

// shared reports whether keys and consumers are kept in Consul, and below which
// prefix.
func (s *keyStore) shared() (c *consul.Client, kv string, ok bool) {
	c, kv = s.consul.client(), s.consul.config().KV
	return c, kv, c != nil && kv != ""
}

// run brings Consul's keys until ctx ends, once somebody looks for keys. Three
// goroutines of its own end with it.
func (s *keyStore) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.ring.Used():
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.fromDisk(ctx) })
	err := s.consul.follow(ctx, func(ctx context.Context, c *consul.Client) error {
		kv := s.consul.config().KV
		if kv == "" {
			s.takeKeys(nil)
			<-ctx.Done()
			return nil
		}
		prefix := keysPrefix(kv)
		store, err := c.Store(prefix)
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { s.tellRevoked(ctx, store) })
		return c.WatchKV(ctx, prefix, func(all map[string][]byte) {
			keys := make(map[string][]byte, len(all))
			for key, value := range all {
				keys[strings.TrimPrefix(key, prefix)] = value
			}
			s.snapshots.Save("keys", keys)
			s.takeKeys(keys)
		})
	})
	if err != nil {
		s.log.WithError(err).Error("the keys in Consul aren't watched any more")
	}
}

// fromDisk uses the keys last known when Consul is slow or away at the start.
func (s *keyStore) fromDisk(ctx context.Context) {
	if _, _, ok := s.shared(); !ok {
		s.know()
		return
	}
	pause(ctx, keysPatience)
	s.mu.Lock()
	live := s.live
	s.mu.Unlock()
	keys := map[string][]byte{}
	if live {
		return
	}
	age, ok := s.snapshots.Load("keys", &keys)
	if !ok {
		return
	}
	s.log.WithField("age", age.Round(time.Second).String()).Warn("Consul hasn't answered: going by the keys last known")
	s.mu.Lock()
	if s.live { // meanwhile
		s.mu.Unlock()
		return
	}
	s.stored = time.Now().Add(-age)
	s.update(keys)
	s.mu.Unlock()
	s.know()
}

// know lets a start that waits for keys go on.
func (s *keyStore) know() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		s.known = true
		close(s.first)
	}
}

// wait returns when Consul's keys are known, nobody looks for any, or ctx ends.
func (s *keyStore) wait(ctx context.Context) {
	select {
	case <-s.ring.Used():
	default:
		return
	}
	select {
	case <-s.first:
	case <-ctx.Done():
	}
}

// takeKeys takes over what Consul says: a record for each consumer.
func (s *keyStore) takeKeys(all map[string][]byte) {
	s.mu.Lock()
	s.live, s.stored = true, time.Time{}
	s.heard = append(s.heard, s.update(all)...)
	known := s.heard
	s.mu.Unlock()
	s.know()
	if len(known) == 0 || s.snapshots.Flush() != nil {
		return // it has logged an error; the revocations are the only ones on the disk
	}
	if err := s.disk.Heard(known); err != nil {
		s.log.WithError(err).Warn("revocations that Consul has heard of stay on the disk")
		return
	}
	s.mu.Lock()
	s.heard = s.heard[len(known):]
	s.mu.Unlock()
}

// update gives the ring the records that have changed. s.mu is held.
func (s *keyStore) update(all map[string][]byte) []consumer.Hash {
	changed, bad := map[string]consumer.Record{}, map[string]consumer.Record{}
	for key := range s.raw {
		if name, ok := ownerOf(key); ok && all[key] == nil {
			changed[name] = consumer.Record{}
		}
		if all[key] == nil {
			delete(s.badKeys, key)
		}
	}
	for key, text := range all {
		if old, ok := s.raw[key]; ok && bytes.Equal(old, text) {
			continue
		}
		name, ok := ownerOf(key)
		r, err := consumer.ParseRecord(text)
		if !ok {
			err = errors.New("aren't named as the gateway does it")
		}
		delete(s.badKeys, key)
		if err != nil { // its keys alone are out of use
			s.badKeys[key] = err.Error()
			s.log.WithError(err).WithField("key", key).Warn("a consumer's keys in Consul aren't used")
		}
		switch {
		case ok && err != nil:
			bad[name] = r
		case ok:
			changed[name] = r
		}
	}
	s.raw = all
	s.ring.Update(consumer.FromConsul, bad) // says nothing of revocations: the keys may be in use again
	return s.ring.Update(consumer.FromConsul, changed)
}

// keyOf names the record of a consumer in Consul, ownerOf the consumer of a
// record: names have slashes, and keys have them between folders.
func keyOf(name string) string { return url.PathEscape(name) }

func ownerOf(key string) (name string, ok bool) {
	name, err := url.PathUnescape(key)
	return name, err == nil && keyOf(name) == key // else two keys could be of one consumer
}

// tellRevoked tells Consul of the keys that were revoked while it was away,
// until ctx ends. While that fails it tries again, less and less often; they are
// revoked here meanwhile.
func (s *keyStore) tellRevoked(ctx context.Context, store *consul.Store) {
	again := time.NewTimer(0)
	defer again.Stop()
	wait, failed := keysRetry, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			if failed {
				continue // it is its time's turn
			}
		case <-again.C:
		}
		err := s.tellAll(ctx, store)
		failed = err != nil
		switch {
		case err == nil:
			wait = keysRetry
		case ctx.Err() == nil:
			again.Reset(wait)
			wait = min(2*wait, keysMost)
		}
	}
}

func (s *keyStore) tellAll(ctx context.Context, store *consul.Store) error {
	for h, r := range s.disk.Lifted() {
		err := revokeIn(ctx, store, r.Consumer, h, r.At)
		if errors.Is(err, consumer.ErrNoKey) || errors.Is(err, consumer.ErrRevoked) {
			err = s.disk.Heard([]consumer.Hash{h}) // somebody else was faster
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// revokeIn revokes a key in Consul.
func revokeIn(ctx context.Context, store *consul.Store, name string, h consumer.Hash, at int64) error {
	return changeIn(ctx, store, name, func(r *consumer.Record) error { return r.Revoke(h, time.Unix(at, 0)) })
}

// changeIn changes the record of a consumer in Consul.
func changeIn(ctx context.Context, store *consul.Store, name string, f func(*consumer.Record) error) error {
	ctx, cancel := context.WithTimeout(ctx, keysTime)
	defer cancel()
	return store.Change(ctx, keyOf(name), func(text []byte) ([]byte, error) {
		r, err := consumer.ParseRecord(text)
		if err != nil {
			return nil, err
		}
		if err := f(&r); err != nil {
			return nil, err
		}
		if len(r.Keys) == 0 {
			return nil, nil
		}
		return r.Text(), nil
	})
}

// status is how consumers and keys are.
func (s *keyStore) status() *admin.ConsumersStatus {
	counts := s.ring.Counts()
	out := &admin.ConsumersStatus{KeysInConsul: counts[consumer.FromConsul], KeysOnDisk: counts[consumer.FromDisk], Untold: len(s.disk.Lifted())}
	c, _, shared := s.shared()
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Beside = s.documents.used
	if !shared {
		return out
	}
	if connected, age := c.Connected(); !connected {
		out.Stale, out.Age = true, age
	}
	for _, stored := range []time.Time{s.stored, s.documents.stored} {
		if !stored.IsZero() {
			out.Stale, out.Age = true, max(out.Age, time.Since(stored))
		}
	}
	return out
}

// problems says what of consumers and keys is left out.
func (s *keyStore) problems() []admin.Problem {
	var list []admin.Problem
	if s.broken != nil {
		list = append(list, admin.Problem{Where: keysFile, Text: s.broken.Error()})
	}
	s.mu.Lock()
	list = append(list, s.documents.problems...)
	for key, text := range s.badKeys {
		list = append(list, admin.Problem{Where: "KV " + keysPrefix(s.consul.config().KV) + key, Text: "the keys " + text})
	}
	s.mu.Unlock()
	for where, text := range s.ring.Problems() {
		list = append(list, admin.Problem{Where: "keys, " + where, Text: text})
	}
	return sorted(list)
}
