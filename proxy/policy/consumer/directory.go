// Package consumer is the directory of the clients that the gateway knows: from
// a key to its consumer. How a client shows its key is the matter of the
// policies below auth. It isn't a policy itself and starts no goroutine.
package consumer

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/rate"
)

// Directory finds consumers. It never changes; nil is an empty one.
//
// Hashes stand in the order in which they came, and slots, an open hash table,
// say where: 48 bytes for a key, without a pointer into the hashes for the
// collector to follow.
type Directory struct {
	hashes []Hash
	owners []*exchange.Consumer // by the index of their hash
	ends   []int64              // likewise, in seconds since 1970, 0: never; nil: no key has an end
	slots  []uint32             // index + 1 of a hash, near the place that its first bytes say; 0: free

	subjects map[subject]*exchange.Consumer
	users    map[string]*Password
	sans     map[san]*exchange.Consumer
	decoy    *Password // for users that nobody knows; nil: there are no users

	plans map[string]*exchange.Plan
	all   []Known
	names func() []Known // all, sorted by name, once somebody asks
	ring  *Keyring       // where to look for what isn't here; nil: nowhere
}

// Known is a consumer, with what is configured of it.
type Known struct {
	*exchange.Consumer
	Config *Config
}

// subject is whom a token is about: a name means somebody only with who gave it
// (RFC 7519, 4.1.2).
type subject struct{ issuer, name string }

// Compile makes the directory of a configuration.
func Compile(plans []*PlanConfig, consumers []*Config) (*Directory, error) {
	var errs error
	byName := map[string]*exchange.Plan{}
	for _, c := range plans {
		p, err := c.plan()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("plan %q: %w", c.Name, err))
			continue
		}
		byName[c.Name] = p
	}
	d := compiling(consumers, byName)
	for _, c := range consumers {
		errs = errors.Join(errs, d.admit(c, nil))
	}
	if errs != nil {
		return nil, errs
	}
	return d, nil
}

func (d *Directory) addUsers(c *Config, x *exchange.Consumer) (errs error) {
	for _, b := range c.Basic {
		p, err := b.password()
		if o := d.users[b.User]; o != nil && err == nil {
			err = fmt.Errorf("user: consumer %q has the same one", o.Consumer.Name)
		}
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("consumer %q: basic: %w", c.Name, err))
			continue
		}
		p.Consumer = x
		d.users[b.User] = p
		if d.decoy == nil {
			d.decoy = p
		}
	}
	return errs
}

func (c *PlanConfig) plan() (*exchange.Plan, error) {
	p := &exchange.Plan{Name: c.Name, Priority: exchange.ParsePriority(c.Priority), Use: c.Use}
	var errs, err error
	if c.Rate == "" && c.Burst != 0 {
		errs = errors.New("burst: without a rate")
	}
	if c.Rate != "" {
		if p.Rate, err = rate.Parse(c.Rate, c.Burst); err != nil {
			errs = fmt.Errorf("rate: %w", err)
		}
	}
	if c.Quota != "" {
		if p.Quota, err = rate.ParseQuota(c.Quota); err != nil {
			errs = errors.Join(errs, fmt.Errorf("quota: %w", err))
		}
	}
	if errs != nil {
		return nil, errs
	}
	return p, nil
}

// Check reports what is wrong with a plan by itself.
func (c *PlanConfig) Check() error {
	_, err := c.plan()
	return err
}

// newDirectory has room for n keys, the slots at most half full.
func newDirectory(n int) *Directory {
	d := &Directory{hashes: make([]Hash, 0, n), owners: make([]*exchange.Consumer, 0, n)}
	size := 2
	for size < 2*n {
		size *= 2
	}
	d.slots = make([]uint32, size)
	return d
}

func (d *Directory) add(h Hash, c *exchange.Consumer) error {
	slot, found := d.slot(&h)
	if found >= 0 {
		return fmt.Errorf("consumer %q has the same key", d.owners[found].Name)
	}
	d.hashes, d.owners = append(d.hashes, h), append(d.owners, c)
	d.slots[slot] = uint32(len(d.hashes))
	return nil
}

// slot finds a hash: the index of its key, or -1 and the slot that is free for
// it. Nobody can choose a hash, so that neither the place nor the number of
// comparisons says anything of the keys that there are; still each comparison
// takes the same time, however much is equal.
func (d *Directory) slot(h *Hash) (slot, index int) {
	mask := len(d.slots) - 1
	for i := int(binary.LittleEndian.Uint64(h[:8])) & mask; ; i = (i + 1) & mask {
		n := int(d.slots[i]) - 1
		if n < 0 || subtle.ConstantTimeCompare(d.hashes[n][:], h[:]) == 1 {
			return i, n
		}
	}
}

// end notes when the key that was added last ends.
func (d *Directory) end(k *KeyConfig) error {
	if k.Expires == "" {
		return nil
	}
	t, err := ParseEnd(k.Expires)
	if err != nil {
		return fmt.Errorf("expires: %w", err)
	}
	if d.ends == nil {
		d.ends = make([]int64, cap(d.hashes))
	}
	d.ends[len(d.hashes)-1] = t.Unix()
	return nil
}

// Find returns whose key it is at a time, and what is the matter with it: nobody's
// unless it is active.
func (d *Directory) Find(key []byte, at time.Time) (*exchange.Consumer, State) {
	if d == nil {
		return nil, Unknown
	}
	h := Hash(sha256.Sum256(key))
	c, s := d.find(&h, at)
	if s == Unknown && d.ring != nil {
		return d.ring.find(&h, at)
	}
	return c, s
}

func (d *Directory) find(h *Hash, at time.Time) (*exchange.Consumer, State) {
	if d == nil {
		return nil, Unknown
	}
	_, n := d.slot(h)
	switch {
	case n < 0:
		return nil, Unknown
	case d.ends != nil && d.ends[n] != 0 && at.Unix() >= d.ends[n]:
		return nil, Expired
	default:
		return d.owners[n], Active
	}
}

// Describe says of a key what sidegate explain shows.
func (d *Directory) Describe(key []byte, at time.Time) string {
	h := Hash(sha256.Sum256(key))
	text := d.describe(&h, at)
	if text == "" && d != nil && d.ring != nil {
		text = d.ring.describe(&h, at)
	}
	if text == "" {
		text = "no consumer has a key " + h.ID()
	}
	return text
}

func (d *Directory) describe(h *Hash, at time.Time) string {
	if d == nil {
		return ""
	}
	_, n := d.slot(h)
	if n < 0 {
		return ""
	}
	text := fmt.Sprintf("key %s of consumer %q", h.ID(), d.owners[n].Name)
	if d.ends != nil && d.ends[n] != 0 {
		text += ending(d.ends[n], at)
	}
	return text
}

// ending says when a key ends, or has ended.
func ending(end int64, at time.Time) string {
	word := ", expires "
	if at.Unix() >= end {
		word = ", expired "
	}
	return word + time.Unix(end, 0).UTC().Format(time.RFC3339)
}

// Subject returns whom the tokens of an issuer mean by a name, nil for nobody
// that is known.
func (d *Directory) Subject(issuer, name string) *exchange.Consumer {
	if d == nil || name == "" || issuer == "" {
		return nil
	}
	if c := d.subjects[subject{issuer, name}]; c != nil {
		return c
	}
	return d.beside().Subject(issuer, name)
}

// beside is the directory of the consumers that stand in no file; nil: none.
func (d *Directory) beside() *Directory {
	if d == nil || d.ring == nil {
		return nil
	}
	return d.ring.more.Load()
}

// Named returns a consumer by name, nil if there is none here.
func (d *Directory) Named(name string) *exchange.Consumer {
	k, _ := d.Known(name)
	return k.Consumer
}

// Known returns a consumer by name, with what is configured of it.
func (d *Directory) Known(name string) (Known, bool) {
	list := d.From(name)
	if len(list) == 0 || list[0].Name != name {
		return Known{}, false
	}
	return list[0], true
}

// From returns the consumers here whose names aren't before one, sorted.
func (d *Directory) From(name string) []Known {
	if d == nil || d.names == nil {
		return nil
	}
	list := d.names()
	i, _ := slices.BinarySearchFunc(list, name, func(k Known, name string) int { return strings.Compare(k.Name, name) })
	return list[i:]
}

// Attach makes the directory look on a ring for what it doesn't have. It comes
// before the first use.
func (d *Directory) Attach(ring *Keyring) { d.ring = ring }

// Use says that keys are looked for here.
func (d *Directory) Use() {
	if d != nil && d.ring != nil {
		d.ring.Use()
	}
}

// Consumer returns a consumer by name, also one that stands in no file; nil for
// nobody that is known.
func (d *Directory) Consumer(name string) *exchange.Consumer {
	if c := d.Named(name); c != nil {
		return c
	}
	return d.beside().Named(name)
}

// Len is the number of keys.
func (d *Directory) Len() int {
	if d == nil {
		return 0
	}
	return len(d.hashes)
}
