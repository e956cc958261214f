package ban

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"
)

const (
	// writeEvery bounds how often the file is written, and so what a crash loses.
	writeEvery = time.Second
	tidyEvery  = time.Minute
	maxFile    = 64 << 20
)

// record is a ban in the file.
type record struct {
	Client string `json:"client"`
	Since  int64  `json:"since"`
	Until  int64  `json:"until"`
	Forget int64  `json:"forget"`
	Times  int    `json:"times"`
	By     string `json:"by"`
	Shared bool   `json:"shared,omitempty"`
}

func (s *Store) load(now time.Time) error {
	if s.Path == "" {
		return nil
	}
	info, err := os.Stat(s.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s: has %d bytes; at most %d are read", s.Path, info.Size(), maxFile)
	}
	return s.read(s.Path, now)
}

// read takes in the bans of a file that aren't known, or are older here.
func (s *Store) read(path string, now time.Time) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var list []record
	if err := json.Unmarshal(text, &list); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, r := range list {
		c, err := parse(r.Client)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if r.Forget <= now.Unix() {
			continue
		}
		l := &s.list[s.shard(c)]
		l.mu.Lock()
		if l.m[c].since <= r.Since {
			s.put(&l.m, c, entry{r.Since, r.Until, r.Forget, r.Times, r.By, r.Shared}, now.Unix())
		}
		l.mu.Unlock()
	}
	return nil
}

// save writes the file, all of it or nothing.
func (s *Store) save() error {
	if s.Path == "" {
		return nil
	}
	list := []record{}
	s.mu.Lock()
	path, held, fresh := s.path(), s.held, maps.Clone(s.fresh)
	s.mu.Unlock()
	if held {
		return nil
	}
	s.each(func(c client, e entry) {
		if fresh != nil && !fresh[c] {
			return
		}
		list = append(list, record{c.String(), e.since, e.until, e.forget, e.times, e.by, e.shared})
	})
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".bans-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what is wrong is told already
	}
	return err
}

// Run keeps the file until ctx ends, and writes it a last time then.
func (s *Store) Run(ctx context.Context) {
	tidy := time.NewTicker(tidyEvery)
	defer tidy.Stop()
	wait := time.NewTimer(0)
	defer wait.Stop()
	<-wait.C
	failed := false
	write := func() {
		err := s.save()
		if err != nil && !failed { // told once until it works again
			s.Log.WithError(err).Warn("bans aren't written, and won't survive a restart")
		}
		failed = err != nil
	}
	due := false
	defer s.release()
	look := time.NewTicker(writeEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			select {
			case <-s.dirty:
				due = true
			default:
			}
			if due {
				write()
			}
			return
		case <-tidy.C:
			s.tidy(time.Now().Unix())
		case <-look.C:
			s.look(time.Now())
		case t := <-s.turns:
			t.done <- t.do()
		case <-s.dirty:
			if !due {
				due = true
				wait.Reset(writeEvery)
			}
		case <-wait.C:
			due = false
			write()
		}
	}
}
