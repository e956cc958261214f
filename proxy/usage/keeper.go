package usage

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// patience is how long the store may take for one thing.
	patience = 30 * time.Second
	// foldEvery is how often what is over is added to the next span.
	foldEvery = time.Minute
	retryMost = time.Minute
)

// KeeperDeps are what a Keeper works with.
type KeeperDeps struct {
	Log     logrus.FieldLogger
	Counter *Counter
	// Open opens the store; it is asked when there is something to store or to
	// read, and again after a failure.
	Open func(context.Context) (Store, error)
	// Early opens it without that, too: something may be in it that is to be
	// delivered or added up.
	Early bool
	Now   func() time.Time // nil: time.Now
}

// Keeper brings what a Counter has counted into a store, and answers questions
// about both. Make it with NewKeeper; Run is its goroutine.
type Keeper struct {
	KeeperDeps
	cfg     Config
	started time.Time
	// turn is held by who drains the counter or asks the store: a flush and a
	// question must not see each other's rows on their way.
	turn  chan struct{}
	store Store // nil: not open
	wait  *pending
	since int64 // when the counter was last drained
	retry time.Time
	pause time.Duration
	fold  time.Time // when it is to be done next
	away  bool      // another process has the store, too, and folds

	mu     sync.Mutex // guards what follows
	status Status
}

// Status is how keeping usage is.
type Status struct {
	Database string    `json:"database"`
	Up       bool      `json:"up"`
	Since    time.Time `json:"down_since,omitzero"`
	Error    string    `json:"error,omitempty"`
	Stored   time.Time `json:"stored,omitzero"` // when something was last written
	Unstored int       `json:"unstored"`        // rows that wait in memory
	Spooled  int       `json:"spooled"`         // batches that wait on the disk
	Series   int       `json:"series"`          // that are counted apart
	Overflow int64     `json:"overflow"`        // requests counted for "(other)"
	Failures uint64    `json:"failures"`        // of the database
}

// NewKeeper returns a keeper of what d.Counter counts; name is the store's.
func NewKeeper(cfg Config, name string, d KeeperDeps) *Keeper {
	if d.Now == nil {
		d.Now = time.Now
	}
	k := &Keeper{KeeperDeps: d, cfg: cfg, turn: make(chan struct{}, 1), wait: newPending(cfg.Series)}
	k.started = d.Now()
	k.since = k.started.Unix()
	k.status = Status{Database: name, Up: true}
	return k
}

// Run stores what was counted, each flush and at the end of each minute, until
// ctx ends; then once more.
func (k *Keeper) Run(ctx context.Context) {
	flush := k.Now().Add(k.cfg.Flush)
	for {
		now := k.Now()
		next := now.Truncate(time.Minute).Add(time.Minute)
		if flush.Before(next) {
			next = flush
		}
		t := time.NewTimer(min(max(next.Sub(now), 0), time.Minute)) // a clock that jumps is noticed
		select {
		case <-ctx.Done():
			t.Stop()
			k.end()
			return
		case <-t.C:
		}
		if now = k.Now(); now.Before(flush) && flush.Sub(now) <= k.cfg.Flush {
			k.drain(ctx)
			continue
		}
		flush = now.Add(k.cfg.Flush)
		k.round(ctx)
	}
}

// enter takes the turn; leave gives it back.
func (k *Keeper) enter(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the usage database is busy: %w", ctx.Err())
	}
}

func (k *Keeper) leave() { <-k.turn }

// drain is a look at the counter alone, so that each minute has what is its.
func (k *Keeper) drain(ctx context.Context) {
	if k.enter(ctx) == nil {
		k.collect()
		k.leave()
	}
}

// collect brings what was counted into pending, under the minute that has been
// going on since the last time. Who calls it has the turn.
func (k *Keeper) collect() {
	now := k.Now()
	start := Minute.Floor(k.since)
	k.Counter.Drain(now, func(key Key, c *Counts) { k.wait.add(start, key, c) })
	k.since = now.Unix()
	series := k.Counter.Len()
	k.mu.Lock()
	k.status.Unstored, k.status.Series = len(k.wait.rows), series
	k.mu.Unlock()
}

// round stores what there is, and folds what is over.
func (k *Keeper) round(ctx context.Context) {
	if k.enter(ctx) != nil {
		return
	}
	k.collect()
	now := k.Now()
	if now.Before(k.retry) && k.retry.Sub(now) <= retryMost {
		k.leave()
		return
	}
	err := k.flush(ctx)
	var waiting string
	if err == nil && k.store != nil {
		waiting = k.waiting()
	}
	k.leave()
	for err == nil && waiting == "" && !k.folds() && (!now.Before(k.fold) || k.fold.Sub(now) > foldEvery) && ctx.Err() == nil {
		more, failed := k.foldSome(ctx)
		switch {
		case failed != nil:
			waiting, k.fold = failed.Error(), now.Add(k.cfg.Flush)
		case !more:
			k.fold = now.Add(foldEvery)
		}
	}
	if ctx.Err() == nil {
		k.outcome(err, waiting)
	}
}

// waiting says why what the store took isn't in the database yet, "" when it is.
// Who calls it has the turn.
func (k *Keeper) waiting() string {
	s := k.store.Status()
	k.mu.Lock()
	k.status.Spooled = s.Spooled
	k.mu.Unlock()
	return s.Error
}

// flush gives pending rows to the store. Who calls it has the turn.
func (k *Keeper) flush(ctx context.Context) error {
	if len(k.wait.rows) == 0 && (k.store == nil && !k.Early || k.store != nil && k.store.Status().Spooled == 0) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := k.open(ctx); err != nil {
		return err
	}
	rows := k.wait.take()
	err := k.store.Add(ctx, rows)
	if err != nil {
		for i := range rows {
			k.wait.add(rows[i].Start, rows[i].Key, &rows[i].Counts)
		}
		k.shut()
	}
	k.mu.Lock()
	if k.status.Unstored = len(k.wait.rows); err == nil && len(rows) > 0 {
		k.status.Stored = k.Now()
	}
	k.mu.Unlock()
	return err
}

func (k *Keeper) open(ctx context.Context) error {
	if k.store != nil {
		return nil
	}
	s, err := k.Open(ctx)
	if err == nil {
		k.store = s
	}
	return err
}

// shut closes a store that failed: it is opened anew, since its file may have
// been exchanged.
func (k *Keeper) shut() {
	if err := k.store.Close(); err != nil {
		k.Log.WithError(err).Debug("closing the usage database")
	}
	k.store = nil
}

// folds reports whether another process does.
func (k *Keeper) folds() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.away
}

// Yield stores what was counted, as far as that goes, and closes the store: another
// process has it from here on. What comes after that is added beside it, by what Open
// opens then.
func (k *Keeper) Yield(ctx context.Context, opens func()) error { return k.pass(ctx, true, opens) }

// Resume closes what was opened since Yield.
func (k *Keeper) Resume(ctx context.Context, opens func()) error { return k.pass(ctx, false, opens) }

func (k *Keeper) pass(ctx context.Context, away bool, opens func()) error {
	if err := k.enter(ctx); err != nil {
		return err
	}
	defer k.leave()
	k.collect()
	if err := k.flush(ctx); err != nil {
		k.Log.WithError(err).Warn("usage couldn't be stored before another process has the database, and is stored later")
	}
	if k.store != nil {
		k.shut()
	}
	k.mu.Lock()
	k.away = away
	k.mu.Unlock()
	opens()
	return nil
}

func (k *Keeper) foldSome(ctx context.Context) (more bool, err error) {
	if err := k.enter(ctx); err != nil {
		return false, err
	}
	defer k.leave()
	if k.store == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if more, err = k.store.Fold(ctx, k.Now(), k.cfg.Retention()); err != nil {
		k.shut()
	}
	return more, err
}

// outcome notes how a round went, and says in the log when that has changed.
func (k *Keeper) outcome(err error, waiting string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, log := k.Now(), k.Log.WithField("database", k.status.Database)
	if err == nil {
		k.pause, k.retry = 0, time.Time{}
	} else {
		k.pause = min(max(2*k.pause, k.cfg.Flush), retryMost)
		k.retry = now.Add(k.pause)
		waiting = err.Error()
	}
	switch {
	case waiting == "" && !k.status.Up:
		log.Info("usage is stored again")
	case err != nil && k.status.Up:
		log.WithError(err).Error("usage can't be stored: it is counted in memory meanwhile, which a crash would lose")
	case waiting != "" && k.status.Up:
		log.WithField("error", waiting).Warn("the usage database is away: what is counted is kept meanwhile")
	}
	if k.status.Error = waiting; waiting == "" {
		k.status.Up, k.status.Since = true, time.Time{}
		return
	}
	k.status.Failures++
	if k.status.Up {
		k.status.Up, k.status.Since = false, now
	}
}

// end stores what is left.
func (k *Keeper) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := k.enter(ctx); err != nil {
		k.Log.WithError(err).Error("the last usage isn't stored")
		return
	}
	defer k.leave()
	k.collect()
	if err := k.flush(ctx); err != nil {
		k.Log.WithError(err).WithField("rows", len(k.wait.rows)).Error("the last usage can't be stored, and is lost")
	}
	if k.store != nil {
		k.shut()
	}
}

// Status is how it is.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.status
	s.Overflow = k.Counter.Overflow()
	return s
}

// Retention is how long rows are kept.
func (k *Keeper) Retention() Retention { return k.cfg.Retention() }

// Total is what was counted since the start for a consumer, route and service.
type Total struct {
	Consumer, Route, Service string
	Classes                  [6]int64 // requests by status/100
	Counts
}

// Live calls f with what was counted since the start, in order; series that have
// had no request for an hour begin anew. f mustn't keep the histogram.
func (k *Keeper) Live(ctx context.Context, f func(*Total)) (started, now time.Time, err error) {
	if err := k.enter(ctx); err != nil {
		return started, now, err
	}
	defer k.leave()
	k.collect()
	var t Total
	k.Counter.Totals(func(key Key, c *Counts) {
		if t.Requests > 0 && (t.Consumer != key.Consumer || t.Route != key.Route || t.Service != key.Service) {
			f(&t)
			h := t.Latency
			h.Reset()
			t = Total{Counts: Counts{Latency: h}}
		}
		t.Consumer, t.Route, t.Service = key.Consumer, key.Route, key.Service
		t.Classes[key.Class] += c.Requests
		t.Counts.Add(c)
	})
	if t.Requests > 0 {
		f(&t)
	}
	return k.started, k.Now(), nil
}

// Read calls f with the rows of a filter, stored or not. f mustn't keep a row's
// histogram. When the store can't be read it gives what isn't stored, and then an
// AwayError.
func (k *Keeper) Read(ctx context.Context, q *Filter, f func(*Row) error) error {
	if err := k.enter(ctx); err != nil {
		return err
	}
	defer k.leave()
	k.collect()
	for _, r := range k.wait.list() {
		if r.Start = q.Step.Floor(r.Start); q.Takes(&r) {
			if err := f(&r); err != nil {
				return err
			}
		}
	}
	if err := k.open(ctx); err != nil {
		return &AwayError{err}
	}
	var enough error // f's own
	err := k.store.Read(ctx, q, func(r *Row) error {
		enough = f(r)
		return enough
	})
	switch {
	case err == nil || enough != nil:
		return enough
	case ctx.Err() == nil:
		k.shut()
	}
	return &AwayError{err}
}

// AwayError is a store that can't be asked: the answer lacks what is in it, or
// some of that.
type AwayError struct{ Err error }

func (e *AwayError) Error() string { return "the usage database can't be read: " + e.Err.Error() }
func (e *AwayError) Unwrap() error { return e.Err }
