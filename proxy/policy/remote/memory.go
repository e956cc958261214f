package remote

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"
)

// Sum names a question: SHA-256 under a key of this process, so that nobody can
// choose questions that push out each other's answers, and what is kept is of no
// use to who reads the memory alone.
type Sum = [sha256.Size]byte

// NewKey returns a key for sums, to be written in front of the question.
func NewKey() Sum {
	var k Sum
	rand.Read(k[:]) // never fails (crypto/rand)
	return k
}

const ways = 8 // places for an answer

// Memory keeps answers for a time, within bounds: those that end first leave
// first. Reading takes no lock. V must not change.
type Memory[V any] struct {
	entries int
	rows    atomic.Pointer[[]row[V]] // nil: nothing was ever kept, and no memory is taken
	make    sync.Once
	maxSize int64
	used    atomic.Int64 // bytes
	swept   atomic.Int64 // when, in seconds
}

type row[V any] [ways]atomic.Pointer[kept[V]]

type kept[V any] struct {
	sum   Sum
	value V
	until time.Time
	size  int64
}

// NewMemory has room for about that many answers, and for that many bytes.
func NewMemory[V any](entries int, maxSize int64) *Memory[V] {
	return &Memory[V]{entries: entries, maxSize: maxSize}
}

// row is the places of an answer; nil: there are none yet.
func (m *Memory[V]) row(s *Sum) *row[V] {
	rows := m.rows.Load()
	if rows == nil {
		return nil
	}
	return &(*rows)[binary.LittleEndian.Uint32(s[:])%uint32(len(*rows))]
}

// Get returns an answer that still counts.
func (m *Memory[V]) Get(s *Sum, now time.Time) (v V, ok bool) {
	row := m.row(s)
	if row == nil {
		return v, false
	}
	for i := range row {
		if k := row[i].Load(); k != nil && k.sum == *s && now.Before(k.until) {
			return k.value, true
		}
	}
	return v, false
}

// Put keeps an answer of about that many bytes, in the place of an older one to
// the same question, else in a free one, else in that of the one that ends first.
// Two at once may overtake each other: that costs a question.
func (m *Memory[V]) Put(s *Sum, v V, size int64, now, until time.Time) {
	m.make.Do(func() {
		rows := make([]row[V], max(1, m.entries/ways))
		m.rows.Store(&rows)
	})
	if m.used.Load()+size > m.maxSize {
		m.sweep(now)
	}
	full := m.used.Load()+size > m.maxSize
	k := &kept[V]{sum: *s, value: v, until: until, size: size}
	row := m.row(s)
	place, last := -1, (*kept[V])(nil) // what stands there
	for i := range row {
		o := row[i].Load()
		if o != nil && o.sum == *s {
			place, last = i, o
			break
		}
		switch {
		case o == nil && !full && (place < 0 || last != nil):
			place, last = i, nil
		case o != nil && (place < 0 || last != nil && o.until.Before(last.until)):
			place, last = i, o
		}
	}
	if place < 0 || full && (last == nil || last.size < size) || !row[place].CompareAndSwap(last, k) {
		return
	}
	m.used.Add(size)
	if last != nil {
		m.used.Add(-last.size)
	}
}

// Forget drops an answer.
func (m *Memory[V]) Forget(s *Sum) {
	row := m.row(s)
	if row == nil {
		return
	}
	for i := range row {
		if k := row[i].Load(); k != nil && k.sum == *s && row[i].CompareAndSwap(k, nil) {
			m.used.Add(-k.size)
		}
	}
}

// sweep gives the memory of answers that are over back, at most once a second.
func (m *Memory[V]) sweep(now time.Time) {
	before := m.swept.Load()
	if before == now.Unix() || !m.swept.CompareAndSwap(before, now.Unix()) {
		return
	}
	rows := *m.rows.Load()
	for i := range rows {
		for j := range rows[i] {
			if k := rows[i][j].Load(); k != nil && !now.Before(k.until) && rows[i][j].CompareAndSwap(k, nil) {
				m.used.Add(-k.size)
			}
		}
	}
}

// Flights are the questions that are being asked: whoever has the same one waits
// for that answer.
type Flights[V any] struct {
	mu  sync.Mutex // guards all
	all map[Sum]*flight[V]
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// Do returns what ask does, which runs once for all that ask the same at a time.
func (f *Flights[V]) Do(s *Sum, ask func() (V, error)) (V, error) {
	f.mu.Lock()
	if o := f.all[*s]; o != nil {
		f.mu.Unlock()
		<-o.done // bounded as ask is
		return o.value, o.err
	}
	if f.all == nil {
		f.all = map[Sum]*flight[V]{}
	}
	o := &flight[V]{done: make(chan struct{}), err: ErrBusy} // should ask panic
	f.all[*s] = o
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.all, *s)
		f.mu.Unlock()
		close(o.done)
	}()
	o.value, o.err = ask()
	return o.value, o.err
}
