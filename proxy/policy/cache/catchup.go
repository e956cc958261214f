package cache

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

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
	var what []string
	for _, key := range keys {
		if seen[key] {
			continue
		}
		e, list, err := readEntry(key, all[key])
		if err != nil {
			problems[key] = err.Error()
			continue
		}
		if !strings.Contains(key, "-"+f.self+"-") {
			todo = append(todo, list...)
			what = append(what, e.String())
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
		f.log.WithFields(logrus.Fields{"purges": len(todo), "answers": n, "what": some(what)}).Info("answers in the cache are forgotten, as another node says")
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
func readEntry(key string, text []byte) (e sharedEntry, list []*selection, err error) {
	if _, ok := keyTime(key); !ok {
		return e, nil, errors.New("its key isn't that of a purge")
	}
	if len(text) > longestEntry {
		return e, nil, fmt.Errorf("it has %d bytes, and %d at most make a purge", len(text), longestEntry)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // a purge of a newer version that this one would get wrong
	if err := d.Decode(&e); err != nil {
		return e, nil, fmt.Errorf("it isn't a purge: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || len(e.Purges) == 0 {
		return e, nil, errors.New("it isn't a purge")
	}
	list = make([]*selection, len(e.Purges))
	for i := range e.Purges {
		if list[i], err = e.Purges[i].compile(); err != nil {
			return e, nil, err
		}
	}
	return e, list, nil
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
