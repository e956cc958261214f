package upstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// queue holds exchanges that wait until an instance has room. Whoever frees
// room wakes the first; that one tries, and waits on in front if somebody was
// faster.
type queue struct {
	n atomic.Int32 // how many wait, for those who free room

	mu   sync.Mutex
	list []*lease
}

func (q *queue) join(l *lease, most int, front bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if front {
		q.list = slices.Insert(q.list, 0, l)
	} else {
		if len(q.list) >= most {
			return false
		}
		q.list = append(q.list, l)
	}
	q.n.Store(int32(len(q.list)))
	return true
}

// leave takes l out. If it was woken already, for room that it doesn't take,
// the next one is.
func (q *queue) leave(l *lease) {
	q.mu.Lock()
	i := slices.Index(q.list, l)
	if i >= 0 {
		q.list = slices.Delete(q.list, i, i+1)
		q.n.Store(int32(len(q.list)))
	}
	q.mu.Unlock()
	if i < 0 {
		q.wake()
	}
}

// wake lets the first one try.
func (q *queue) wake() {
	if q.n.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) == 0 {
		return
	}
	l := q.list[0]
	q.list = slices.Delete(q.list, 0, 1)
	q.n.Store(int32(len(q.list)))
	l.rouse()
}

func (q *queue) wakeAll() {
	if q.n.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.list {
		l.rouse()
	}
	clear(q.list)
	q.list = q.list[:0]
	q.n.Store(0)
}

// rouse wakes the exchange that waits with l. The channel has room for one
// signal, and one is enough.
func (l *lease) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// await waits until an instance has room, no longer than a connect may take.
func (l *lease) await(x *exchange.Exchange, s *settings) (*instance, *exchange.Fault) {
	p := l.pool
	wait := s.timeouts.Connect
	if !x.Deadline.IsZero() {
		wait = min(wait, x.Deadline.Sub(p.g.clock()))
	}
	if l.wake == nil {
		l.wake = make(chan struct{}, 1)
	}
	select {
	case <-l.wake: // left over
	default:
	}
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	for front := false; ; front = true {
		if !p.queue.join(l, s.limits.Queue, front) {
			p.counts.overloaded.Add(1)
			return nil, exchange.NewFault(exchange.FromUpstream, exchange.Overloaded, "all instances of %s are full, and so is the queue", p.name)
		}
		// Room may have come up before we stood in the queue.
		if in := l.pick(x, p.view.Load(), p.g.now()); in != nil {
			p.queue.leave(l)
			return in, nil
		}
		select {
		case <-l.wake:
			if x.Front != nil && x.Front.Gone(x) {
				p.queue.leave(l) // and so the signal goes to somebody who still cares
				return nil, exchange.NewFault(exchange.FromClient, exchange.ClientGone, "left while waiting for an instance of %s", p.name)
			}
		case <-timer.C:
			p.queue.leave(l)
			p.counts.overloaded.Add(1)
			if !x.Deadline.IsZero() && wait < s.timeouts.Connect {
				return nil, exchange.NewFault(exchange.FromUpstream, exchange.DeadlineExceeded, "no instance of %s had room in time", p.name)
			}
			return nil, exchange.NewFault(exchange.FromUpstream, exchange.Overloaded, "no instance of %s had room within %s", p.name, wait)
		}
	}
}
