package app

import (
	"context"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/systemd"
)

// buildPatience is how long a configuration may take to be put in force: with
// large rule sets, on a busy machine, that is seconds.
const buildPatience = 2 * time.Minute

// watchdog gives systemd's watchdog its heartbeat, each time that a request has
// gone through every listener and back. A process that hangs anywhere on that way
// gives none, and is restarted by systemd. Without WatchdogSec= in the unit it
// returns at once.
type watchdog struct {
	log      logrus.FieldLogger
	interval time.Duration
	check    func(context.Context) error // silence until the context's end is an error
	try      func() bool                 // whether nobody holds the lock of the configuration
	beat     func() error
	ending   func() bool // whether another process has taken over, or will start

	held time.Time // since when that lock couldn't be had; zero: it could
	lost bool      // the check before failed
}

func (a *App) watchdog(ctx context.Context) {
	interval, err := systemd.WatchdogInterval()
	if err != nil {
		a.log.WithError(err).Error("systemd's watchdog gets no heartbeat")
	}
	if interval == 0 {
		return
	}
	w := &watchdog{
		log: a.log.WithField("component", "watchdog"), interval: interval, check: a.server.Check, beat: systemd.Watchdog,
		ending: func() bool { return a.passedOn() || !a.view.running() },
		try: func() bool {
			free := a.build.TryLock()
			if free {
				a.build.Unlock()
			}
			return free
		},
	}
	w.run(ctx)
}

func (w *watchdog) run(ctx context.Context) {
	t := time.NewTicker(w.interval)
	defer t.Stop()
	for !w.ending() {
		w.once(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// once checks, for an interval at most, and gives the heartbeat. systemd waits for
// three intervals: so a check that failed is said, and repeated, before the end.
func (w *watchdog) once(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, w.interval)
	defer cancel()
	err := w.check(limit)
	if ctx.Err() != nil || w.ending() {
		return
	}
	if err == nil {
		err = w.configuration(time.Now())
	}
	if err != nil {
		w.lost = true
		w.log.WithError(err).Error("the gateway hangs: its request to itself wasn't answered, so systemd's watchdog gets no heartbeat and will restart it")
		return
	}
	if w.lost {
		w.lost = false
		w.log.Warn("the gateway doesn't hang any more")
	}
	if err := w.beat(); err != nil {
		w.log.WithError(err).Warn("systemd's watchdog didn't get its heartbeat")
	}
}

// configuration finds a change of the configuration that never ends. Whoever holds
// the lock at each look may be another one: that is only many changes.
func (w *watchdog) configuration(now time.Time) error {
	if w.try() {
		w.held = time.Time{}
		return nil
	}
	if w.held.IsZero() {
		w.held = now
	}
	if d := now.Sub(w.held); d > buildPatience {
		return fmt.Errorf("the configuration has been locked for %s", d.Round(time.Second))
	}
	return nil
}
