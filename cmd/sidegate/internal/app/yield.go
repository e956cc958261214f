package app

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// What lies in state_dir has one process that writes it, also while two serve: each
// part says in its yield.go what becomes of what the other one still does.
//
//	charges            a journal of its own, which the new process takes in
//	quotas             likewise: what was used beyond
//	bans               likewise; each reads the other's, as they come
//	usage              added by both, to PostgreSQL from spools of their own
//	the cache's disk   the old process reads what it knows, and writes nothing
//	keys, consumers    the old process reads what the new one changes, and changes nothing
//	snapshots          the old process writes none
//	rate limits        the new process begins with the buckets as they were
//	leases of quotas   given back, so that the new process finds them
//	logs               appended to by both; a rotation is noticed
//	tickets, keys of sessions and cookies, certificates   read by both; locked when written

const (
	ratesFile = "rates"
	// keysEvery is how often a process that has yielded looks for keys that another
	// one has changed.
	keysEvery = time.Second
	// usageTime bounds the last flush of usage before another process has the
	// database.
	usageTime = 3 * time.Second
)

// shares is how the durable state is shared.
type shares struct {
	claimed chan struct{} // closed once it is this process's
	yielded atomic.Bool   // it is another one's again
}

// hold keeps the durable state from being opened before claim.
func (a *App) hold() {
	a.charges.Hold()
	a.quotas.Hold()
	a.bans.Hold()
	_ = a.keys.disk.Yield() // nothing is open
	_ = a.snapshots.Yield() // nothing waits
}

// ours waits until the durable state is this process's; false: it won't be.
func (a *App) ours(ctx context.Context) bool {
	select {
	case <-a.shares.claimed:
		return true
	default:
	}
	select {
	case <-a.shares.claimed:
		return true
	case <-ctx.Done():
		return false
	}
}

// claim opens the durable state: at the start, or when the process before has
// yielded. It is called once, before the first configuration is in force.
func (a *App) claim() error {
	if err := a.counters.Load(filepath.Join(a.file.StateDir, ratesFile), time.Now()); err != nil {
		a.log.WithError(err).Warn("rate limits from before aren't known")
	}
	if a.handing.before != nil {
		a.snapshots.Resume()
		if err := a.bans.Claim(); err != nil {
			a.log.WithError(err).Error("the bans of the process before can't be read, and are lifted")
		}
		if err := a.keys.again((*consumer.Disk).Claim); err != nil {
			a.log.WithError(err).Error("the keys and consumers on disk can't be read")
		}
		if err := errors.Join(a.charges.Claim(), a.quotas.Claim()); err != nil {
			return err
		}
	}
	close(a.shares.claimed)
	return nil
}

// yield lets go of the durable state in state_dir, so that another process can
// open it: everything is written and unlocked when it returns. Requests are served
// on: what they count and charge from now on is written elsewhere. After an error
// resume is called.
func (a *App) yield() error {
	a.shares.yielded.Store(true)
	if err := a.charges.Yield(); err != nil {
		return err
	}
	if err := a.quotas.Yield(); err != nil {
		return err
	}
	if err := a.bans.Yield(); err != nil {
		return err
	}
	if err := a.cached.Yield(); err != nil {
		return err
	}
	if err := a.keys.disk.Yield(); err != nil {
		return err
	}
	if err := a.snapshots.Yield(); err != nil {
		a.log.WithError(err).Warn("snapshots aren't written")
	}
	if a.usage != nil {
		ctx, cancel := context.WithTimeout(context.Background(), usageTime)
		defer cancel()
		if err := a.usage.Yield(ctx, func() {}); err != nil { // what was counted is stored at this process's end
			a.log.WithError(err).Warn("the usage database stays this process's until it ends")
		}
	}
	if err := a.counters.Keep(filepath.Join(a.file.StateDir, ratesFile), time.Now()); err != nil {
		a.log.WithError(err).Warn("the process that takes over begins with full buckets of rate limits")
	}
	return nil
}

// resume takes back what yield let go of; the other process has ended.
func (a *App) resume() error {
	var errs []error
	if a.usage != nil {
		ctx, cancel := context.WithTimeout(context.Background(), usageTime)
		defer cancel()
		errs = append(errs, a.usage.Resume(ctx, func() { a.shares.yielded.Store(false) }))
	}
	a.shares.yielded.Store(false)
	a.snapshots.Resume()
	errs = append(errs, a.keys.again((*consumer.Disk).Claim), a.cached.Resume(), a.bans.Resume(), a.quotas.Resume(), a.charges.Resume())
	return errors.Join(errs...)
}

// keepRates keeps the buckets of rate limits for the next start.
func (a *App) keepRates() {
	select {
	case <-a.shares.claimed:
	default:
		return // what is there is another process's
	}
	if a.shares.yielded.Load() {
		return
	}
	if err := a.counters.Keep(filepath.Join(a.file.StateDir, ratesFile), time.Now()); err != nil {
		a.log.WithError(err).Warn("rate limits begin with full buckets after the restart")
	}
}

// share does what a process has to do that another one has taken over from, until ctx
// ends.
func (a *App) share(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-a.handing.over:
	}
	a.cached.Leave()
	if a.accessLog != nil {
		a.accessLog.Follow()
	}
	if a.auditLog != nil {
		a.auditLog.Follow()
	}
	a.fleet.GiveBack()
	t := time.NewTicker(keysEvery)
	defer t.Stop()
	path := filepath.Join(a.file.StateDir, keysFile)
	var seen os.FileInfo
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		info, err := os.Stat(path)
		if err != nil || seen != nil && os.SameFile(info, seen) && info.Size() == seen.Size() && info.ModTime().Equal(seen.ModTime()) {
			continue
		}
		if err := a.keys.again((*consumer.Disk).Again); err != nil {
			a.log.WithError(err).Warn("keys that the process has changed that took over can't be read")
			continue
		}
		seen = info
	}
}

// again reads what another process may have changed of the keys and consumers on disk.
func (s *keyStore) again(read func(*consumer.Disk) error) error {
	before, had, _ := s.disk.Read()
	if err := read(s.disk); err != nil {
		return err
	}
	texts, keys, lifted := s.disk.Read()
	for name := range had {
		if _, ok := keys[name]; !ok {
			keys[name] = consumer.Record{} // none any more
		}
	}
	s.mu.Lock()
	changed := false
	for name := range before {
		if _, ok := texts[name]; !ok {
			texts[name] = ""
		}
	}
	for name, text := range texts {
		if before[name] != text {
			s.documents.set(consumer.FromDisk, name, text)
			changed = true
		}
	}
	if changed {
		s.combine()
	}
	s.mu.Unlock()
	revoked := map[consumer.Hash]int64{}
	for h, r := range lifted {
		revoked[h] = r.At
	}
	s.ring.Lift(revoked)
	s.ring.Update(consumer.FromDisk, keys)
	return nil
}

// mayChange refuses an operator's change while another process takes over: it would be
// lost.
func (a *App) mayChange() error {
	if a.shares.yielded.Load() {
		return admin.Refuse(http.StatusServiceUnavailable, "another process takes over, or has: ask it, in a moment")
	}
	return nil
}
