package cache

import (
	"sync"
	"sync/atomic"
)

// mostRecent bounds the recent purges that are remembered, by their values.
const mostRecent = 16 << 10

// recent are the purges that answers on their way have to heed: those that came
// after they were asked for. What an answer is tagged with is known only when its
// head is there.
type recent struct {
	last atomic.Uint64 // number of the latest purge

	mu    sync.RWMutex // guards what follows
	marks index[lastPurge]
	floor uint64 // what has begun before this purge finds nothing here any more, and is never stored
}

// lastPurge is when something was purged last.
type lastPurge struct{ hard, soft uint64 }

// fate is what purges since say of an answer that was asked for earlier.
type fate uint8

const (
	unpurged   fate = iota
	softPurged      // it may be stored as a stale one
	hardPurged      // it mustn't be stored
)

// note remembers a purge. Answers that are asked for from now on have nothing to do
// with it.
func (r *recent) note(s *selection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.last.Load() + 1
	r.marks.add(s, func(m lastPurge) lastPurge {
		if s.soft {
			m.soft = n
		} else {
			m.hard = n
		}
		return m
	})
	if r.marks.size() > mostRecent {
		r.marks, r.floor = index[lastPurge]{}, n
	}
	r.last.Store(n)
}

// since is what became of an answer that was asked for when began was the last
// purge.
func (r *recent) since(began uint64, a *subject) fate {
	if r.last.Load() == began {
		return unpurged
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if began < r.floor {
		return hardPurged
	}
	f := unpurged
	r.marks.visit(a, func(m lastPurge) {
		switch {
		case m.hard > began:
			f = hardPurged
		case m.soft > began:
			f = max(f, softPurged)
		}
	})
	return f
}

// forget drops the purges that nothing on its way has to heed: oldest is the last
// purge before the oldest of them began.
func (r *recent) forget(oldest uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.marks.keep(func(m lastPurge) bool { return m.hard > oldest || m.soft > oldest })
}
