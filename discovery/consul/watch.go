package consul

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// WatchStatus is how one watch is doing.
type WatchStatus struct {
	What       string        // in words: "service orders", "kv sidegate/"
	Shared     bool          // it has no blocking query of its own
	Index      uint64        // Consul's
	Instances  int           // instances, keys or services it knows
	LastAnswer time.Time     // zero: none yet
	Age        time.Duration // since the last answer
	Error      string        // why the last read failed; "" when it didn't
	Failures   int           // in a row
}

// watch is a running one. Its fields are guarded by mu.
type watch struct {
	log logrus.FieldLogger

	mu     sync.Mutex
	status WatchStatus
}

// track begins a watch; its end is untrack.
func (c *Client) track(what string) *watch {
	w := &watch{log: c.log.WithField("watch", what), status: WatchStatus{What: what}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watches[w] = struct{}{}
	return w
}

func (c *Client) untrack(w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.watches, w)
}

// Status tells of every watch, sorted by what it watches.
func (c *Client) Status() []WatchStatus {
	c.mu.Lock()
	watches := make([]*watch, 0, len(c.watches))
	for w := range c.watches {
		watches = append(watches, w)
	}
	c.mu.Unlock()
	list := make([]WatchStatus, 0, len(watches))
	for _, w := range watches {
		w.mu.Lock()
		s := w.status
		w.mu.Unlock()
		if !s.LastAnswer.IsZero() {
			s.Age = time.Since(s.LastAnswer)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b WatchStatus) int { return cmp.Or(strings.Compare(a.What, b.What)) })
	return list
}

// Connected says whether the agent answers, and how long ago it last did. With
// blocking queries an age of some minutes is usual while nothing changes.
func (c *Client) Connected() (ok bool, age time.Duration) {
	last := c.lastOK.Load()
	if last == 0 {
		return false, 0
	}
	return last > c.lastKO.Load(), time.Since(time.Unix(0, last))
}

// answered notes a good read.
func (w *watch) answered(index uint64) {
	w.mu.Lock()
	was := w.status.Error
	w.status.Error, w.status.Failures = "", 0
	w.status.Index, w.status.LastAnswer = index, time.Now()
	w.mu.Unlock()
	if was != "" {
		w.log.Debug("watch works again")
	}
}

// failed notes a bad one. What concerns this watch alone is logged when it
// begins or changes.
func (w *watch) failed(err error) {
	w.mu.Lock()
	was := w.status.Error
	w.status.Error = err.Error()
	w.status.Failures++
	w.mu.Unlock()
	if was != err.Error() && !impersonal(err) {
		w.log.WithError(err).Warn("watch fails; what was last known stays")
	}
}

func (w *watch) count(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Instances = n
}

func (w *watch) share(shared bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Shared = shared
}

// poll calls step until ctx ends, with the index for its read, and takes back
// the one the agent gave.
//
// The index begins anew at 0 when it goes backwards (an agent or cluster that
// was restored) and after every error: an agent that lost its state would let a
// query with the old, higher index hang for its whole wait time. An agent that
// gives none is asked again only after a pause.
func (c *Client) poll(ctx context.Context, w *watch, step func(ctx context.Context, index uint64) (uint64, error)) {
	var index uint64
	backoff := c.times.backoff
	pace := pacer{every: c.times.pace}
	for pace.wait(ctx) {
		got, err := step(ctx, index)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			w.failed(err)
			index = 0
			c.pause(ctx, backoff)
			backoff = min(2*backoff, c.times.maxBackoff)
			continue
		}
		backoff = c.times.backoff
		w.answered(got)
		switch {
		case got == 0:
			index = 0
			c.pause(ctx, 8*c.times.backoff)
		case got < index:
			index = 0
		default:
			index = got
		}
	}
}

// pause waits for half to all of d. When the agent answers again after it
// didn't, what is left of the pause is dropped, but for a part that keeps
// thousands of watches from asking at the same moment.
func (c *Client) pause(ctx context.Context, d time.Duration) {
	c.mu.Lock()
	recovery := c.recovery
	spread := min(d, time.Duration(len(c.feeds))*time.Millisecond)
	c.mu.Unlock()
	least := min(d/2, c.times.backoff)
	if !sleep(ctx, least) {
		return
	}
	t := time.NewTimer(d/2 - least + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-recovery:
		sleep(ctx, rand.N(spread+1))
	}
}

// sleep waits for d; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// paceBurst is how many reads may follow each other at once.
const paceBurst = 10

// pacer bounds how often one watch reads, whatever the agent answers: a burst
// at once, then one each `every`.
type pacer struct {
	every time.Duration
	free  time.Time // when the bucket is full again
}

// wait blocks until the next read may be made; false when ctx ended.
func (p *pacer) wait(ctx context.Context) bool {
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(p.every)
	return sleep(ctx, p.free.Sub(now)-paceBurst*p.every)
}
