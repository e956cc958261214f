package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

const (
	// maxShared bounds how many keys Consul has: each node reads all of them at
	// each change.
	maxShared = 100_000
	// usualOverlap is how long both keys work when one takes the place of another.
	usualOverlap = 24 * time.Hour
	mostOverlap  = 10 * 366 * 24 * time.Hour
	// seenTime is how long a change waits until this node sees it in Consul.
	seenTime = 2 * time.Second
)

// CreateKey makes a key of a consumer.
func (a *App) CreateKey(ctx context.Context, name, expires string) (admin.NewKey, error) {
	s := a.keys
	var out admin.NewKey
	now := time.Now()
	end, err := consumer.ParseLifetime(expires, now)
	if err != nil {
		return out, admin.Refuse(http.StatusBadRequest, "expires: %v", err)
	}
	if err := s.use(ctx); err != nil {
		return out, err
	}
	if _, _, ok := s.find(name); !ok {
		return out, s.nobody(name)
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if err := s.room(s.home()); err != nil {
		return out, err
	}
	secret, k := newKey(now)
	if !end.IsZero() {
		k.Expires = end.Unix()
	}
	if err := s.change(ctx, s.home(), name, func(r *consumer.Record) error { return r.Add(k, now) }); err != nil {
		return out, refusal(err)
	}
	s.seen(ctx, k.Hash)
	out.Secret, out.KeyStatus = secret, s.keyStatus(&consumer.Kept{Key: k, Consumer: name, From: s.home()}, now)
	out.State = consumer.Active.String()
	s.log.WithFields(logrus.Fields{"consumer": name, "key": out.ID, "expires": orNever(out.Expires)}).Info("key created by an operator")
	return out, nil
}

func newKey(now time.Time) (string, consumer.Key) {
	secret, h := consumer.NewSecret()
	return secret, consumer.Key{Hash: h, Created: now.Unix()}
}

// RotateKey makes a key in the place of another, and lets both work for a time.
func (a *App) RotateKey(ctx context.Context, id, overlap, expires string) (admin.NewKey, error) {
	s := a.keys
	var out admin.NewKey
	now := time.Now()
	both := usualOverlap
	var err error
	if overlap != "" {
		if both, err = consumer.ParseDuration(overlap); err != nil || both > mostOverlap {
			return out, admin.Refuse(http.StatusBadRequest, "overlap: %.60q isn't how long both keys work, such as 24h or 7d", overlap)
		}
	}
	end, err := consumer.ParseLifetime(expires, now)
	if err != nil {
		return out, admin.Refuse(http.StatusBadRequest, "expires: %v", err)
	}
	if err := s.use(ctx); err != nil {
		return out, err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	old, err := a.key(id)
	if err != nil {
		return out, err
	}
	if old.Revoked != 0 { // perhaps only here yet
		return out, refusal(consumer.ErrRevoked)
	}
	if err := s.room(old.From); err != nil {
		return out, err
	}
	secret, k := newKey(now)
	switch {
	case !end.IsZero():
		k.Expires = end.Unix()
	case expires == "":
		k.Expires = old.After(now)
	}
	var until int64
	err = s.change(ctx, old.From, old.Consumer, func(r *consumer.Record) (err error) {
		until, err = r.Rotate(old.Hash, k, now, both)
		return err
	})
	if err != nil {
		return out, refusal(err)
	}
	s.seen(ctx, k.Hash)
	old.Expires = until
	was := s.keyStatus(&old, now)
	out.Secret, out.KeyStatus, out.Replaces = secret, s.keyStatus(&consumer.Kept{Key: k, Consumer: old.Consumer, From: old.From}, now), &was
	out.State = consumer.Active.String()
	s.log.WithFields(logrus.Fields{"consumer": old.Consumer, "key": out.ID, "replaces": was.ID, "until": was.Expires}).Info("key rotated by an operator")
	return out, nil
}

// RevokeKey ends a key at once: here in any case, and on the other nodes as soon
// as Consul has heard of it.
func (a *App) RevokeKey(ctx context.Context, id string) (admin.KeyStatus, error) {
	s := a.keys
	now := time.Now()
	if err := s.use(ctx); err != nil {
		return admin.KeyStatus{}, err
	}
	k, err := a.key(id)
	if err != nil {
		return admin.KeyStatus{}, err
	}
	if k.Revoked != 0 {
		return admin.KeyStatus{}, admin.Refuse(http.StatusConflict, "key %s of consumer %q is revoked already, since %s", k.Hash.ID(), k.Consumer, moment(k.Revoked).Format(time.RFC3339))
	}
	note := ""
	if k.From == consumer.FromDisk {
		s.changing.Lock()
		defer s.changing.Unlock()
		err = s.change(ctx, k.From, k.Consumer, func(r *consumer.Record) error { return r.Revoke(k.Hash, now) })
	} else {
		// Behind no other change: they wait for Consul, and this one mustn't.
		note, err = s.revokeShared(ctx, &k, now)
	}
	if err != nil {
		return admin.KeyStatus{}, refusal(err)
	}
	k.Revoked = now.Unix()
	out := s.keyStatus(&k, now)
	out.Note = note
	s.log.WithFields(logrus.Fields{"consumer": k.Consumer, "key": out.ID}).Info("key revoked by an operator")
	return out, nil
}

// revokeShared revokes a key that Consul keeps. It holds here before Consul has
// heard of it, and over a crash in between.
func (s *keyStore) revokeShared(ctx context.Context, k *consumer.Kept, now time.Time) (note string, err error) {
	kept := s.disk.Lift(k.Hash, consumer.Revocation{Consumer: k.Consumer, At: now.Unix()})
	s.ring.Lift(map[consumer.Hash]int64{k.Hash: now.Unix()})
	err = s.change(ctx, k.From, k.Consumer, func(r *consumer.Record) error { return r.Revoke(k.Hash, now) })
	switch {
	case err == nil, errors.Is(err, consumer.ErrRevoked), errors.Is(err, consumer.ErrNoKey): // another node was faster
		return "", nil
	case kept != nil:
		s.log.WithError(kept).Error("a revocation can be told neither to Consul nor to the disk, and ends with this process")
		return fmt.Sprintf("revoked on this node until it restarts: neither Consul (%v) nor the disk (%v) takes it", err, kept), nil
	}
	s.log.WithError(err).Warn("a revoked key is revoked on this node only, until Consul answers again")
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return fmt.Sprintf("revoked on this node; Consul doesn't take it, and the other nodes learn of it as soon as it does: %v", err), nil
}

// home is where new keys and consumers are kept.
func (s *keyStore) home() consumer.Origin {
	if _, _, ok := s.shared(); ok {
		return consumer.FromConsul
	}
	return consumer.FromDisk
}

// change changes a consumer's record where it is kept.
func (s *keyStore) change(ctx context.Context, at consumer.Origin, name string, f func(*consumer.Record) error) error {
	if at == consumer.FromDisk {
		r, err := s.disk.Change(name, f)
		if err == nil {
			s.ring.Update(at, map[string]consumer.Record{name: r})
		}
		return err
	}
	c, kv, ok := s.shared()
	if !ok {
		return admin.Refuse(http.StatusServiceUnavailable, "the key is kept in Consul, and there is none any more")
	}
	store, err := c.Store(keysPrefix(kv))
	if err != nil {
		return err
	}
	return changeIn(ctx, store, name, f)
}

// room reports that there are too many keys for one more.
func (s *keyStore) room(at consumer.Origin) error {
	if at == consumer.FromConsul && s.ring.Counts()[at] >= maxShared {
		return admin.Refuse(http.StatusConflict, "there are %d keys in Consul, and that is the most; those beyond belong into files", maxShared)
	}
	return nil
}

// seen waits until this node has seen a key that was made, so that it works here
// when the operator reads of it. It gives up after a time: the key is made.
func (s *keyStore) seen(ctx context.Context, h consumer.Hash) {
	t := time.NewTimer(seenTime)
	defer t.Stop()
	for {
		changed := s.ring.Changed()
		if s.ring.Has(h) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-changed:
		}
	}
}

func orNever(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format(time.RFC3339)
}
