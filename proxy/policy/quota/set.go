package quota

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

// ErrUnknown is a client of a quota that has used nothing.
var ErrUnknown = errors.New("nothing was used of that quota by that client in this period")

// setTime is how long the fleet has to hear of it.
const setTime = 5 * time.Second

// Set says how much a client has used in the period that goes on.
func (s *Store) Set(quota, client, period string, used int64) (Use, error) {
	k := id{scope: quota, client: client}
	for _, p := range []exchange.Period{exchange.Hour, exchange.Day, exchange.Month} {
		if p.String() == period {
			k.period = p
		}
	}
	if k.period == 0 {
		return Use{}, fmt.Errorf("%q isn't h, day or month", period)
	}
	if used < 0 {
		return Use{}, errors.New("used is less than 0")
	}
	if err := s.setFleet(k, used); err != nil {
		return Use{}, err
	}
	sh := s.shard(&k)
	sh.mu.Lock()
	e := sh.m[k]
	if e == nil || e.cur.start == 0 {
		sh.mu.Unlock()
		return Use{}, ErrUnknown
	}
	e.at(startOf(k.period, s.Now()))
	// Nothing is set aside any more: the disk has to know of it first.
	e.cur.used, e.cur.known, e.cur.owed, e.cur.reserved, e.warned = used, used, 0, -1, false
	e.version++
	wake := !e.waiting
	e.waiting = true
	a := ask{id: k, e: e, start: e.cur.start, used: used}
	u := e.use()
	sh.mu.Unlock()
	if wake {
		s.writer.enqueue(e)
	}
	s.settle(&a)
	if s.failing.Load() {
		return u, errors.New("it holds, but can't be written to the disk now: a restart would undo it")
	}
	return u, nil
}

// setFleet tells all nodes of it, where they count together.
func (s *Store) setFleet(k id, used int64) error {
	sh := s.shard(&k)
	sh.mu.Lock()
	e := sh.m[k]
	if e == nil || !e.shared || s.Fleet == nil {
		sh.mu.Unlock()
		return nil
	}
	start := e.at(startOf(k.period, s.Now())).start
	sh.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), setTime)
	defer cancel()
	if err := s.Fleet.Set(ctx, &shared.Ask{Key: fleetKey(&k, start), Used: used, Until: endOf(k.period, start)}); err != nil {
		return fmt.Errorf("the fleet can't be told: %w", err)
	}
	return nil
}
