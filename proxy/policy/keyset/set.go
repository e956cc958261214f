package keyset

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// How keys are kept.
const (
	refresh    = 10 * time.Minute // unless the issuer says otherwise
	minRefresh = time.Minute
	maxRefresh = time.Hour
	maxStale   = 24 * time.Hour // after that, keys of an issuer that is away count no more

	firstRetry = 250 * time.Millisecond
	maxRetry   = time.Minute

	askEvery   = 30 * time.Second // at most, for the sake of unknown ids
	askEmpty   = 5 * time.Second  // at most, for the sake of requests while there are no keys at all
	missingFor = time.Minute      // how long an id is known to be missing
	maxMissing = 1024             // ids
	maxWaiting = 256              // requests
)

// Why there is no key for a token.
var (
	ErrUnknown     = errors.New("the issuer has no such key")
	ErrAmbiguous   = errors.New("the token names no key, and the issuer has several")
	ErrUnavailable = errors.New("the issuer's keys can't be fetched")
)

// keys are those of a set at one time.
type keys struct {
	list    []*Key
	fetched time.Time
}

// find returns the key for a token. Without an id there must be no choice.
func (k *keys) find(id string, a Alg) (*Key, error) {
	var found *Key
	for _, key := range k.list {
		if id != "" && key.ID != id || !key.fits(a) {
			continue
		}
		if id != "" {
			return key, nil
		}
		if found != nil {
			return nil, ErrAmbiguous
		}
		found = key
	}
	if found == nil {
		return nil, ErrUnknown
	}
	return found, nil
}

// Set is the keys of one issuer. It may be used by any number of goroutines.
type Set struct {
	source Source
	store  *Store
	client *http.Client
	log    logrus.FieldLogger
	keys   atomic.Pointer[keys] // the last good ones; nil: none yet
	tried  chan struct{}        // closed after the first fetch

	failures atomic.Uint64

	mu      sync.Mutex // guards what follows
	closed  bool       // no configuration uses it any more
	running bool       // a fetch is under way
	due     time.Time  // of the next fetch
	done    chan struct{}
	failed  int   // fetches in a row
	err     error // of the last one
	asked   time.Time
	missing map[string]time.Time // ids, and until when they are known to be missing
	waiting int
}

func newSet(s *Store, src Source) *Set {
	return &Set{
		source: src, store: s, client: src.client(), log: s.deps.Log.WithField("issuer", src.Issuer),
		tried: make(chan struct{}), done: make(chan struct{}), missing: map[string]time.Time{},
	}
}

// Issuer is whose keys they are.
func (s *Set) Issuer() string { return s.source.Issuer }

// fresh reports whether there are keys that count.
func (s *Set) fresh(now time.Time) bool {
	k := s.keys.Load()
	return k != nil && now.Sub(k.fetched) < maxStale
}

// Find returns the key of an id ("": the only one there is) for an algorithm.
// One that isn't there may have come since: then the set is fetched, and Find
// waits for that, for a time.
func (s *Set) Find(id string, a Alg) (*Key, error) {
	key, err := s.find(id, a)
	if key != nil || err == ErrAmbiguous || len(id) > maxID {
		return key, err
	}
	for end := time.Now().Add(s.store.deps.Patience); ; {
		if !s.await(id, err == ErrUnavailable, time.Until(end)) {
			return nil, err
		}
		key, err = s.find(id, a)
		if err != ErrUnavailable { // one that has just failed is tried again soon
			break
		}
	}
	if err == ErrUnknown {
		s.miss(id)
	}
	return key, err
}

func (s *Set) find(id string, a Alg) (*Key, error) {
	if !s.fresh(s.store.deps.Now()) {
		return nil, ErrUnavailable
	}
	return s.keys.Load().find(id, a)
}

// await waits for a fetch, which it may ask for, and reports whether looking
// again makes sense.
func (s *Set) await(id string, empty bool, patience time.Duration) bool {
	if patience <= 0 {
		return false
	}
	now, every := s.store.deps.Now(), askEvery
	s.mu.Lock()
	pending := s.running || !s.due.After(now)
	if empty {
		pending, every = pending || s.due.Before(now.Add(patience)), askEmpty
	}
	switch {
	case s.closed, s.waiting >= maxWaiting, now.Before(s.missing[id]):
		s.mu.Unlock()
		return false
	case pending: // wait for that one
	case now.Sub(s.asked) < every:
		s.mu.Unlock()
		return false
	default:
		s.asked, s.due = now, now
		s.store.poke()
	}
	done := s.done
	s.waiting++
	s.mu.Unlock()
	t := time.NewTimer(patience)
	select {
	case <-done:
	case <-t.C:
	}
	t.Stop()
	s.mu.Lock()
	s.waiting--
	s.mu.Unlock()
	return true
}

// miss remembers that an id is missing.
func (s *Set) miss(id string) {
	now := s.store.deps.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) >= maxMissing {
		clear(s.missing) // the pace of fetches is bounded anyhow
	}
	s.missing[id] = now.Add(missingFor)
}

// begin reports whether a fetch is due, and marks it as under way; else it says
// when one will be.
func (s *Set) begin(now time.Time) (due time.Time, begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.running:
		return now.Add(maxRefresh), false // its end is told
	case s.due.After(now):
		return s.due, false
	}
	s.running = true
	return now, true
}

// fetch brings the set up to date.
func (s *Set) fetch(ctx context.Context) {
	list, bad, keep, err := s.source.fetch(ctx, s.client)
	if ctx.Err() != nil {
		err = ctx.Err() // the gateway stops
	}
	now := s.store.deps.Now()
	changed := false
	if err == nil {
		changed = s.put(list, now)
	}
	s.mu.Lock()
	before := s.err
	s.running, s.err = false, err
	if err == nil {
		s.failed = 0
		if keep == 0 {
			keep = refresh
		}
		s.due = now.Add(jitter(min(max(keep, minRefresh), maxRefresh) * 4 / 5))
	} else {
		s.failures.Add(1)
		s.due = now.Add(jitter(min(firstRetry<<min(s.failed, 10), maxRetry)))
		s.failed++
	}
	close(s.done)
	s.done = make(chan struct{})
	select {
	case <-s.tried:
	default:
		close(s.tried)
	}
	s.mu.Unlock()
	if ctx.Err() == nil {
		s.tell(before, err, bad, changed, len(list))
	}
}

// put makes list the keys, those that stayed being the same objects, and
// reports whether any came or went.
func (s *Set) put(list []*Key, now time.Time) (changed bool) {
	next := &keys{fetched: now}
	var old []*Key
	if k := s.keys.Load(); k != nil {
		old = k.list
	}
	stays := map[*Key]bool{}
	for _, k := range list {
		k.set = s
		for _, o := range old {
			if o.print == k.print {
				k = o
			}
		}
		changed = changed || k.gone.Load() || !has(old, k)
		stays[k] = true
		next.list = append(next.list, k)
	}
	s.keys.Store(next)
	for _, o := range old {
		if !stays[o] {
			o.gone.Store(true) // what was verified with it counts no more
			changed = true
		}
	}
	return changed
}

func has(list []*Key, k *Key) bool {
	for _, o := range list {
		if o == k {
			return true
		}
	}
	return false
}

// tell logs what changed.
func (s *Set) tell(before, err error, bad []error, changed bool, n int) {
	switch {
	case err != nil && before == nil:
		s.log.WithError(err).Warn("the issuer's keys can't be fetched; the last ones go on")
	case err == nil && before != nil:
		s.log.WithField("keys", n).Info("the issuer's keys can be fetched again")
	case changed:
		s.log.WithField("keys", n).Info("the issuer's keys changed")
	}
	if changed {
		for _, b := range bad {
			s.log.WithError(b).Warn("a key of the issuer isn't used")
		}
	}
}

// jitter is d, or up to a tenth less: not all gateways at once.
func jitter(d time.Duration) time.Duration { return d - rand.N(d/10+1) }
