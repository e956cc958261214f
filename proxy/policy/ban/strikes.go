package ban

import (
	"sync"
	"time"
)

const (
	ways = 8       // places that a key may have
	sets = 1 << 15 // so 262,144 addresses can have strikes, in 4 MiB
)

// strikes counts, for each key, what came since the first. Its size is fixed: a
// key without a place takes that of the one which began longest ago. Keys are
// hashes under a secret seed, so that nobody can choose addresses that meet.
type strikes struct {
	begin time.Time
	list  []set
	locks [256]sync.Mutex // each guards the sets whose number ends like its own
}

type set [ways]place

// place is a key's count since a time, in tenths of a second from begin. A key
// of 0 is a free place.
type place struct {
	key   uint64
	since uint32
	n     uint32
}

// add counts one more for key and reports whether that makes it most within
// window; then the key begins anew.
func (s *strikes) add(key uint64, at time.Time, most int, window time.Duration) bool {
	now := uint32(max(at.Sub(s.begin), 0) / (time.Second / 10))
	i := key % sets
	lock := &s.locks[i%uint64(len(s.locks))]
	lock.Lock()
	defer lock.Unlock()
	p := s.list[i].find(key)
	if p.key != key || time.Duration(now-p.since)*(time.Second/10) > window && now > p.since {
		*p = place{key: key, since: now}
	}
	if p.n++; int64(p.n) < int64(most) {
		return false
	}
	*p = place{}
	return true
}

// find returns a key's place: its own, else a free one, else the oldest.
func (s *set) find(key uint64) *place {
	best := &s[0]
	for i := range s {
		p := &s[i]
		if p.key == key {
			return p
		}
		if p.key == 0 && best.key != 0 || (p.key == 0) == (best.key == 0) && p.since < best.since {
			best = p
		}
	}
	return best
}
