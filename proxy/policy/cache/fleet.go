package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Shared is where a fleet keeps its purges: a key for each, or for some that came
// together.
type Shared interface {
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
}

const (
	// keepPurges is how long a purge stays with the fleet. A node that has heard
	// nothing for longer forgets all its answers.
	keepPurges = 24 * time.Hour
	// cleanPurges is what is added to that before it is deleted, and again as much by
	// chance, so that not all nodes do it at once.
	cleanPurges = 30 * time.Minute
	// mostShared and mostSharedBytes bound what a fleet keeps: beyond, the oldest go,
	// and trimmedKey says so. fewShared may be written as fast as they come, the
	// others one each sharePace, so that each is there for minutes.
	mostShared      = 2048
	mostSharedBytes = 4 << 20
	fewShared       = 512
	sharePace       = 200 * time.Millisecond
	trimmedKey      = "trimmed"
	// longestEntry bounds an entry, mostWaiting the purges that wait to be told.
	longestEntry = 64 << 10
	mostWaiting  = 16 << 10
	// tellTime is how long a purge waits for being told to the fleet.
	tellTime = 5 * time.Second
	// clockSkew is how far the clocks of nodes may be apart.
	clockSkew = time.Minute

	tellFirst = time.Second // between tries, while Consul doesn't answer
	tellMost  = 30 * time.Second
)

// sharedEntry is what stands in a key: purges, who has them made, and when.
type sharedEntry struct {
	By     string  `json:"by"`
	At     int64   `json:"at"` // milliseconds since 1970
	Purges []Purge `json:"purges"`
}

// String says it in words.
func (e *sharedEntry) String() string {
	list := make([]string, len(e.Purges))
	for i := range e.Purges {
		list[i] = e.Purges[i].String()
	}
	return fmt.Sprintf("%.100s: %s", e.By, some(list))
}

// some are the first of a list, in words.
func some(list []string) string {
	const shown = 3
	text := strings.Join(list[:min(len(list), shown)], ", ")
	if n := len(list) - shown; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// trimmed is what stands in trimmedKey: purges until then may have been dropped
// early, in milliseconds since 1970.
type trimmed struct {
	Until int64 `json:"until"`
}

// Fleet has purges hold on all nodes: it tells the others, and does what they tell.
// Its methods are safe for concurrent use.
type Fleet struct {
	store *Store
	log   logrus.FieldLogger
	host  string
	self  string        // of this process, in its keys
	wake  chan struct{} // capacity 1
	save  func(FleetState)

	writing sync.Mutex // held while the store is changed by what the fleet says; taken before mu

	mu       sync.Mutex // guards what follows
	off      string     // why purges aren't shared; "": they are
	waiting  []*telling
	shared   int // entries of the fleet, when last seen
	count    int // of own keys
	state    FleetState
	seen     map[string]bool // of state, while it lives
	problems map[string]string
}

// FleetState is what a node knows of the fleet's purges. What is on its disk may be
// used after a restart when what has come since has been done.
type FleetState struct {
	Current time.Time `json:"current"` // when it knew all
	Seen    []string  `json:"seen"`    // the keys of what it has done
}

// telling is a purge that the fleet is to hear of.
type telling struct {
	p    Purge
	done chan error // capacity 1
}

// ErrNoFleet says that there is nobody to tell.
var ErrNoFleet = errors.New("there are no other nodes to tell")

// NewFleet has purges of s hold on other nodes, too, once Share runs. What s has of an
// earlier run isn't used until what was purged meanwhile is done (Merge), or SetOff says
// that nobody else purges. state is what was last given to save; save may be nil.
func NewFleet(s *Store, log logrus.FieldLogger, host string, state FleetState, save func(FleetState)) *Fleet {
	var id [6]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	f := &Fleet{
		store: s, log: log, host: host, self: hex.EncodeToString(id[:]), wake: make(chan struct{}, 1), save: save,
		off: "no consul block", state: state, seen: map[string]bool{}, problems: map[string]string{},
	}
	for _, key := range state.Seen {
		f.seen[key] = true
	}
	s.doubt()
	return f
}

// SetOff says why purges aren't shared, "" if they are. Where they aren't, nothing can
// have been missed.
func (f *Fleet) SetOff(why string) {
	f.mu.Lock()
	f.off = why
	if why == "" {
		f.mu.Unlock()
		return
	}
	for _, t := range f.waiting {
		select {
		case t.done <- fmt.Errorf("%w: %s", ErrNoFleet, why):
		default: // it has been told before that it has to wait
		}
	}
	f.waiting = nil
	f.mu.Unlock()
	f.store.trust()
}

// Tell has the other nodes do p, and returns when they can know of it. With another
// error than ErrNoFleet it is tried on until they can; a restart ends that.
func (f *Fleet) Tell(ctx context.Context, p Purge) error {
	if err := p.Check(); err != nil {
		return err
	}
	t := &telling{p: p, done: make(chan error, 1)}
	f.mu.Lock()
	switch {
	case f.off != "":
		f.mu.Unlock()
		return fmt.Errorf("%w: %s", ErrNoFleet, f.off)
	case len(f.waiting) >= mostWaiting:
		f.mu.Unlock()
		return fmt.Errorf("%d purges wait for Consul already: this one won't be told", mostWaiting)
	}
	f.waiting = append(f.waiting, t)
	f.mu.Unlock()
	f.poke()
	timer := time.NewTimer(tellTime)
	defer timer.Stop()
	select {
	case err := <-t.done:
		if err != nil && !errors.Is(err, ErrNoFleet) {
			err = fmt.Errorf("%w; it is tried on until Consul takes it", err)
		}
		return err
	case <-timer.C:
		return fmt.Errorf("no answer from Consul for %s; it is tried on until Consul takes it", tellTime)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fleet) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Share tells the fleet of purges until ctx ends. While that fails it tries again,
// less and less often.
func (f *Fleet) Share(ctx context.Context, to Shared) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var earliest time.Time // when the next entry may be written
	pause, failed := tellFirst, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-timer.C:
		}
		if rest := time.Until(earliest); rest > 0 {
			timer.Reset(rest)
			continue
		}
		shared, err := f.tellSome(ctx, to)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failed {
				f.log.WithError(err).Warn("purges can't be told to the other nodes; they hold on this one")
			}
			failed, earliest = true, time.Now().Add(pause)
			pause = min(2*pause, tellMost)
		default:
			if failed {
				f.log.Info("purges are told to the other nodes again")
			}
			failed, pause = false, tellFirst
			if shared > fewShared {
				earliest = time.Now().Add(sharePace)
			}
		}
		if f.Waiting() > 0 {
			timer.Reset(max(0, time.Until(earliest)))
		}
	}
}

// tellSome writes an entry, if purges wait for it, and returns how many the fleet has.
func (f *Fleet) tellSome(ctx context.Context, to Shared) (shared int, err error) {
	key, text, list := f.next()
	if len(list) > 0 {
		one, cancel := context.WithTimeout(ctx, tellTime)
		defer cancel()
		err = to.Put(one, key, text)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && len(list) > 0 {
		f.waiting = slices.DeleteFunc(f.waiting, func(t *telling) bool { return slices.Contains(list, t) })
		f.shared++
	}
	for _, t := range list {
		select {
		case t.done <- err:
		default: // it has been told before that it has to wait
		}
	}
	return f.shared, err
}

// next is the next entry: as many purges as there is room for.
func (f *Fleet) next() (key string, text []byte, list []*telling) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 {
		return "", nil, nil
	}
	now := time.Now().UnixMilli()
	e := sharedEntry{By: f.host, At: now}
	size := 0
	for _, t := range f.waiting {
		one := plainJSON(t.p)
		if size += len(one) + 1; size > longestEntry-100-len(f.host) && len(list) > 0 {
			break
		}
		e.Purges, list = append(e.Purges, t.p), append(list, t)
	}
	text = plainJSON(e)
	f.count++
	return fmt.Sprintf("%013d-%s-%d", now, f.self, f.count), text, list
}

// plainJSON is JSON of strings and numbers, with & as it is, so that it isn't much
// longer than these.
func plainJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // never fails: nothing in it can't be encoded
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Problems are the fleet's purges that this node doesn't understand, by key.
func (f *Fleet) Problems() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make(map[string]string, len(f.problems))
	for key, text := range f.problems {
		list[key] = text
	}
	return list
}

// Waiting is how many purges the fleet hasn't heard of.
func (f *Fleet) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}
