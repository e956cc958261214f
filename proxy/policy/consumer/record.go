package consumer

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// maxKeys bounds a consumer's keys that aren't in a file: its record has to
	// fit into one value of Consul's KV.
	maxKeys = 1000
	// keepOver is how long a key that is over stays on record, so that lists
	// and explain can say so.
	keepOver = 30 * 24 * time.Hour
	// lastTime is the end of the year 9999: what is later can't be shown (RFC 3339,
	// 1), milliseconds above all.
	lastTime = 253402300799
)

// Key is a key as it is kept: by its hash. Times are in seconds since 1970, 0 is
// never.
type Key struct {
	Hash    Hash  `json:"sha256"`
	Created int64 `json:"created"`
	Expires int64 `json:"expires,omitempty"`
	Revoked int64 `json:"revoked,omitempty"`
}

// State is what is the matter with the key.
func (k *Key) State(now time.Time) State {
	switch {
	case k.Revoked != 0:
		return Revoked
	case k.Expires != 0 && now.Unix() >= k.Expires:
		return Expired
	default:
		return Active
	}
}

// Record is what is kept of the keys of a consumer, beside those in files.
type Record struct {
	Keys []Key `json:"keys"`
}

// ParseRecord reads a record; no text is an empty one.
func ParseRecord(text []byte) (Record, error) {
	var r Record
	if len(text) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, fmt.Errorf("can't be read: %w", err)
	}
	if len(r.Keys) > maxKeys {
		return Record{}, fmt.Errorf("has %d keys, and %d are allowed", len(r.Keys), maxKeys)
	}
	seen := make(map[Hash]bool, len(r.Keys))
	for i := range r.Keys {
		h := r.Keys[i].Hash
		if h == (Hash{}) || seen[h] {
			return Record{}, errors.New("has a key without a hash, or one twice")
		}
		seen[h] = true
		for _, at := range []int64{r.Keys[i].Created, r.Keys[i].Expires, r.Keys[i].Revoked} {
			if at < 0 || at > lastTime {
				return Record{}, fmt.Errorf("has a key with the time %d, which isn't one in seconds since 1970", at)
			}
		}
	}
	return r, nil
}

// Text is the record as ParseRecord reads it.
func (r *Record) Text() []byte {
	b, err := json.Marshal(r)
	if err != nil {
		panic("consumer: a record can't be marshalled: " + err.Error()) // hashes and numbers only
	}
	return b
}

// Errors of a change, for whoever asked for it.
var (
	ErrNoKey   = errors.New("there is no such key any more")
	ErrRevoked = errors.New("the key is revoked already")
	ErrExpired = errors.New("the key has expired already")
)

// Add adds a key, and drops those that are over for long.
func (r *Record) Add(k Key, now time.Time) error {
	over := now.Add(-keepOver).Unix()
	r.Keys = slices.DeleteFunc(r.Keys, func(k Key) bool {
		return k.Revoked != 0 && k.Revoked < over || k.Expires != 0 && k.Expires < over
	})
	if len(r.Keys) >= maxKeys {
		return fmt.Errorf("the consumer has %d keys, and that is the most", len(r.Keys))
	}
	r.Keys = append(r.Keys, k)
	return nil
}

func (r *Record) find(h Hash) *Key {
	i := slices.IndexFunc(r.Keys, func(k Key) bool { return k.Hash == h })
	if i < 0 {
		return nil
	}
	return &r.Keys[i]
}

// Revoke ends a key now, for good.
func (r *Record) Revoke(h Hash, now time.Time) error {
	k := r.find(h)
	switch {
	case k == nil:
		return ErrNoKey
	case k.Revoked != 0:
		return ErrRevoked
	}
	k.Revoked = now.Unix()
	return nil
}

// Rotate adds a key in the place of another, which ends after the overlap, or
// sooner if it would have anyway. It returns when that is.
func (r *Record) Rotate(old Hash, k Key, now time.Time, overlap time.Duration) (until int64, err error) {
	was := r.find(old)
	if was == nil {
		return 0, ErrNoKey
	}
	switch was.State(now) {
	case Revoked:
		return 0, ErrRevoked
	case Expired:
		return 0, ErrExpired
	}
	until = now.Add(overlap).Unix()
	if was.Expires != 0 {
		until = min(until, was.Expires)
	}
	was.Expires = until
	return until, r.Add(k, now)
}

// After is the end of a key that follows this one, and lasts as long: 0 for one
// that has no end.
func (k *Key) After(now time.Time) int64 {
	if k.Expires == 0 {
		return 0
	}
	return min(now.Unix()+max(k.Expires-k.Created, 1), lastTime)
}
