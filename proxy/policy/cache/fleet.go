package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
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
	if text, err := json.Marshal(sharedEntry{By: f.host, Purges: []Purge{p}}); err != nil || len(text) > longestEntry-100 {
		return errors.Join(err, fmt.Errorf("a purge of %d bytes is too long for the fleet: make several of it", len(text)))
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
		return err
	case <-timer.C:
		return errors.New("Consul hasn't taken it yet; it is told when Consul does")
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
		one, err := json.Marshal(t.p)
		if err != nil { // Tell has tried it
			continue
		}
		if size += len(one) + 1; size > longestEntry-100-len(f.host) && len(list) > 0 {
			break
		}
		e.Purges, list = append(e.Purges, t.p), append(list, t)
	}
	text, _ = json.Marshal(e) // of strings and numbers
	f.count++
	return fmt.Sprintf("%013d-%s-%d", now, f.self, f.count), text, list
}

// keyTime is when a purge was made, by its key.
func keyTime(key string) (time.Time, bool) {
	ms, _, ok := strings.Cut(key, "-")
	n, err := strconv.ParseInt(ms, 10, 64)
	return time.UnixMilli(n), ok && err == nil && len(ms) == 13
}

// Merge does what the fleet's purges say that it hasn't done yet, in their order. all
// is what the fleet has; what can leave it is returned.
func (f *Fleet) Merge(all map[string][]byte, now time.Time) (over []string, trim *time.Time) {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.mu.Lock()
	current, seen := f.state.Current, f.seen
	f.mu.Unlock()
	missed := f.missed(current, now, all[trimmedKey])
	keys := make([]string, 0, len(all))
	for key := range all {
		if key != trimmedKey {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	problems := map[string]string{}
	var todo []*selection
	for _, key := range keys {
		if seen[key] {
			continue
		}
		list, err := readEntry(key, all[key])
		if err != nil {
			problems[key] = err.Error()
			continue
		}
		if !strings.Contains(key, "-"+f.self+"-") {
			todo = append(todo, list...)
		}
	}
	if current.IsZero() {
		if n := f.store.distrust(); n > 0 {
			f.log.WithField("answers", n).Warn("it isn't known what other nodes have purged since: answers of an earlier run are forgotten")
		}
	}
	switch {
	case missed != "":
		f.log.WithField("reason", missed).Warn("purges of other nodes may have been missed: all answers in the cache are forgotten")
		f.store.purge([]*selection{{all: true}})
	case len(todo) > 0:
		n := 0
		for _, purged := range f.store.purge(todo) {
			n += purged
		}
		f.log.WithFields(logrus.Fields{"purges": len(todo), "answers": n}).Info("answers in the cache are forgotten, as another node says")
	}
	f.merged(keys, problems, now)
	return f.excess(keys, all, now)
}

// missed says why purges may have been missed since current; "": none was.
func (f *Fleet) missed(current, now time.Time, text []byte) string {
	if current.IsZero() {
		return "" // there was nothing before
	}
	if now.Sub(current) > keepPurges {
		return "nothing was heard of them for longer than they are kept"
	}
	var t trimmed
	if json.Unmarshal(text, &t) == nil && time.UnixMilli(t.Until).Add(clockSkew).After(current) {
		return "there were more than are kept"
	}
	return ""
}

// readEntry reads what another node, or somebody else, has written.
func readEntry(key string, text []byte) ([]*selection, error) {
	if _, ok := keyTime(key); !ok {
		return nil, errors.New("its key isn't that of a purge")
	}
	if len(text) > longestEntry {
		return nil, fmt.Errorf("it has %d bytes, and %d at most make a purge", len(text), longestEntry)
	}
	var e sharedEntry
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // a purge of a newer version that this one would get wrong
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("it isn't a purge: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || len(e.Purges) == 0 {
		return nil, errors.New("it isn't a purge")
	}
	list := make([]*selection, len(e.Purges))
	for i := range e.Purges {
		var err error
		if list[i], err = e.Purges[i].compile(); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// merged notes that all keys have been done, and reports new problems.
func (f *Fleet) merged(keys []string, problems map[string]string, now time.Time) {
	seen := make(map[string]bool, len(keys))
	done := make([]string, 0, len(keys))
	for _, key := range keys {
		if problems[key] == "" {
			seen[key], done = true, append(done, key)
		}
	}
	f.mu.Lock()
	was := f.problems
	f.problems, f.seen, f.shared = problems, seen, len(keys)
	f.state = FleetState{Current: now, Seen: done}
	state := f.state
	f.mu.Unlock()
	f.store.trust()
	for key, text := range problems {
		if was[key] != text {
			f.log.WithFields(logrus.Fields{"key": key, "problem": text}).Warn("a purge that this node doesn't understand is left out")
		}
	}
	if f.save != nil {
		f.save(state)
	}
}

// excess are the keys that can go: those that are over, and, when there are too many,
// the oldest quarter, which trim is the end of.
func (f *Fleet) excess(keys []string, all map[string][]byte, now time.Time) (over []string, trim *time.Time) {
	var chance [1]byte
	rand.Read(chance[:]) // never fails (crypto/rand)
	oldest := now.Add(-keepPurges - cleanPurges - cleanPurges*time.Duration(chance[0])/255)
	left, size := len(keys), 0
	for _, key := range keys {
		size += len(all[key])
	}
	tooMany := left > mostShared || size > mostSharedBytes
	for _, key := range keys {
		at, ok := keyTime(key)
		switch {
		case ok && at.Before(oldest):
		case tooMany && (left > mostShared*3/4 || size > mostSharedBytes*3/4):
			if ok {
				trim = &at
			}
		default:
			continue
		}
		over, left, size = append(over, key), left-1, size-len(all[key])
	}
	return over, trim
}

// Clean takes keys out of the fleet's. Any node may.
func (f *Fleet) Clean(ctx context.Context, from Shared, keys []string, trim *time.Time) error {
	if trim != nil {
		text, err := json.Marshal(trimmed{trim.UnixMilli()})
		if err != nil {
			return err
		}
		one, cancel := context.WithTimeout(ctx, tellTime)
		err = from.Put(one, trimmedKey, text)
		cancel()
		if err != nil {
			return err
		}
	}
	for _, key := range keys {
		one, cancel := context.WithTimeout(ctx, tellTime)
		err := from.Delete(one, key)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// Heard says that the fleet's store was last heard of then, with nothing new.
func (f *Fleet) Heard(at time.Time) {
	f.writing.Lock()
	defer f.writing.Unlock()
	f.mu.Lock()
	current := f.state.Current
	if current.IsZero() || !at.After(current) { // the first news is Merge's
		f.mu.Unlock()
		return
	}
	f.state.Current = at
	state := f.state
	f.mu.Unlock()
	if at.Sub(current) > keepPurges {
		f.log.Warn("nothing was heard of other nodes' purges for longer than they are kept: all answers in the cache are forgotten")
		f.store.purge([]*selection{{all: true}})
	}
	if f.save != nil {
		f.save(state)
	}
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
