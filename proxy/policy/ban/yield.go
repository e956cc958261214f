package ban

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
)

// A process that hands over writes the bans that come after that to a file of its own,
// which its successor reads as they come, and until it has ended. It reads the
// successor's bans likewise. A ban holds on both sides within two seconds; one that is
// lifted meanwhile is lifted here once it is over.

const drainFile = "bans.json"

// turn is something that Run does between two writes.
type turn struct {
	do   func() error
	done chan error // capacity 1
}

func (s *Store) atTurn(do func() error) error {
	t := turn{do, make(chan error, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	select {
	case s.turns <- t:
		return <-t.done
	case <-ctx.Done():
		return errors.New("the file of bans can't be written in time")
	}
}

// path is where bans are written; s.mu is held.
func (s *Store) path() string {
	if s.own != nil {
		return filepath.Join(s.own.Dir(), drainFile)
	}
	return s.Path
}

func (s *Store) drainsDir() string { return filepath.Join(filepath.Dir(s.Path), "ban-drains") }

// Hold has nothing written before Claim: the file is still another process's.
func (s *Store) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
}

// Claim reads the file once more, and writes it from here on.
func (s *Store) Claim() error {
	s.mu.Lock()
	held := s.held
	s.held, s.drains = false, true
	s.mu.Unlock()
	if !held {
		return nil
	}
	return s.load(time.Now())
}

// Yield writes the file a last time, while Run runs. What is banned after that is
// written elsewhere. A file that can't be written is nothing to wait for.
func (s *Store) Yield() error {
	if s.Path == "" {
		return nil
	}
	return s.atTurn(func() error {
		if err := s.save(); err != nil {
			s.Log.WithError(err).Warn("bans aren't written, and aren't all known to the process that takes over")
		}
		own, err := estate.Found(s.drainsDir())
		if err != nil {
			s.Log.WithError(err).Warn("bans from here on aren't known to the process that takes over")
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = err != nil
		if err == nil {
			s.own, s.fresh = own, map[client]bool{}
		}
		return nil
	})
}

// Resume writes the file again.
func (s *Store) Resume() error {
	if s.Path == "" {
		return nil
	}
	return s.atTurn(func() error {
		s.mu.Lock()
		own := s.own
		s.own, s.fresh, s.held = nil, nil, false
		s.mu.Unlock()
		err := s.load(time.Now())
		s.changed()
		if own != nil {
			err = errors.Join(err, own.Remove())
		}
		return err
	})
}

// look reads what the other process has banned.
func (s *Store) look(now time.Time) {
	s.mu.Lock()
	own, held, drains := s.own != nil, s.held, s.drains
	s.mu.Unlock()
	var err error
	switch {
	case held:
	case own:
		err = s.loadChanged(now)
	case drains:
		err = s.inherit(now)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Log.WithError(err).Warn("bans of another process can't be read")
	}
}

// loadChanged reads the file if it isn't what was read last.
func (s *Store) loadChanged(now time.Time) error {
	info, err := os.Stat(s.Path)
	if err != nil {
		return err
	}
	s.mu.Lock()
	same := s.seen != nil && os.SameFile(s.seen, info)
	s.seen = info
	s.mu.Unlock()
	if same { // a new one takes its place, always
		return nil
	}
	return s.load(now)
}

// inherit reads what processes ban that have yielded. When one has ended, and its bans
// are in the file, they go.
func (s *Store) inherit(now time.Time) error {
	names, err := estate.List(s.drainsDir())
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.drains = len(names) > 0
	s.mu.Unlock()
	for _, name := range names {
		own, err := estate.Take(s.drainsDir(), name)
		if err != nil {
			return err
		}
		err = s.read(filepath.Join(s.drainsDir(), name, drainFile), now)
		if errors.Is(err, os.ErrNotExist) {
			err = nil // it has banned nobody
		}
		if own == nil {
			s.changed()
			continue
		}
		if err == nil {
			err = s.save()
		}
		if err != nil {
			return errors.Join(err, own.Close())
		}
		if err := own.Remove(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.own != nil {
		_ = s.own.Close() // nothing is written by it
		s.own = nil
		s.held = true
	}
}
