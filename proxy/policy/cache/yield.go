package cache

import (
	"context"
	"errors"
	"os"
	"time"
)

// A process that hands over lets go of the folder, and goes on with what is in
// memory, and with the files that it knows, as long as they are there. It makes and
// removes none any more.

const (
	// yieldTime is how long the folder may take to be let go of.
	yieldTime = 5 * time.Second
	lockRetry = 20 * time.Millisecond
)

var errGiven = errors.New("the folder of the cache is another process's")

// turn is something that Run does between two jobs, with the folder's lock.
type turn struct {
	do   func(lock **os.File) error
	done chan error // capacity 1
}

func (d *disk) atTurn(do func(lock **os.File) error) error {
	t := turn{do, make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), yieldTime)
	defer cancel()
	select {
	case d.turns <- t:
		return <-t.done
	case <-ctx.Done():
		return errors.New("the cache's disk is too slow")
	}
}

// Yield lets another process have the folder, while Run runs: what was on its way is
// written.
func (s *Store) Yield() error {
	d := &s.disk
	d.hurry.Store(true)
	if !d.open.Load() {
		return nil
	}
	return d.atTurn(func(lock **os.File) error {
		d.work()
		d.remember(*lock)
		d.open.Store(false)
		d.names.Lock()
		d.given.Store(true)
		d.names.Unlock()
		return (*lock).Close()
	})
}

// Resume takes the folder back, from a process that has ended.
func (s *Store) Resume() error {
	d := &s.disk
	d.hurry.Store(false)
	if !d.given.Load() {
		return nil
	}
	return d.atTurn(func(lock **os.File) error {
		late := time.Now().Add(yieldTime)
		for {
			f, err := d.tryAcquire()
			if err == nil {
				*lock = f
				d.given.Store(false)
				d.open.Store(true)
				return nil
			}
			if time.Now().After(late) {
				return err
			}
			time.Sleep(lockRetry)
		}
	})
}

// Leave has no stored answer used any more: another process serves, and what is
// purged there isn't known here.
func (s *Store) Leave() { s.left.Store(true) }
