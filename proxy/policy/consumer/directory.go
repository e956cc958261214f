// Package consumer is the directory of the clients that the gateway knows: from
// a key to its consumer. How a client shows its key is the matter of the
// policies below auth. It isn't a policy itself and starts no goroutine.
package consumer

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/rate"
)

// Hash is the SHA-256 of a key. Keys themselves are kept nowhere.
type Hash [sha256.Size]byte

// ParseHash reads a hash in hexadecimal.
func ParseHash(text string) (Hash, error) {
	var h Hash
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%.80q isn't a SHA-256 in hexadecimal, 64 digits", text)
	}
	copy(h[:], b)
	if h == sha256.Sum256(nil) {
		return h, errors.New("that is the hash of an empty key")
	}
	return h, nil
}

// Directory finds consumers. It never changes; nil is an empty one.
//
// Hashes stand in the order in which they came, and slots, an open hash table,
// say where: 48 bytes for a key, without a pointer into the hashes for the
// collector to follow.
type Directory struct {
	hashes []Hash
	owners []*exchange.Consumer // by the index of their hash
	slots  []uint32             // index + 1 of a hash, near the place that its first bytes say; 0: free

	names    map[string]*exchange.Consumer
	subjects map[subject]*exchange.Consumer
	users    map[string]*Password
	sans     map[san]*exchange.Consumer
	decoy    *Password // for users that nobody knows; nil: there are no users
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
	n := 0
	for _, c := range consumers {
		n += len(c.Keys)
	}
	d := newDirectory(n)
	d.subjects, d.users = map[subject]*exchange.Consumer{}, map[string]*Password{}
	d.sans, d.names = map[san]*exchange.Consumer{}, map[string]*exchange.Consumer{}
	for _, c := range consumers {
		x := &exchange.Consumer{Name: c.Name, Plan: byName[c.Plan], Labels: c.Labels}
		d.names[c.Name] = x
		if c.Plan != "" && x.Plan == nil {
			errs = errors.Join(errs, fmt.Errorf("consumer %q: plan: there is no plan %q", c.Name, c.Plan))
		}
		for _, k := range c.Keys {
			h, err := ParseHash(k.SHA256)
			if err == nil {
				err = d.add(h, x)
			}
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("consumer %q: api_key: sha256: %w", c.Name, err))
			}
		}
		errs = errors.Join(errs, d.addUsers(c, x), d.addSANs(c, x))
		for _, j := range c.JWT {
			s := subject{j.Issuer, j.Subject}
			if d.subjects[s] != nil {
				errs = errors.Join(errs, fmt.Errorf("consumer %q: jwt: consumer %q has the same subject", c.Name, d.subjects[s].Name))
			}
			d.subjects[s] = x
		}
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
	p := &exchange.Plan{Name: c.Name}
	if c.Rate == "" {
		if c.Burst != 0 {
			return nil, errors.New("burst: without a rate")
		}
		return p, nil
	}
	var err error
	if p.Rate, err = rate.Parse(c.Rate, c.Burst); err != nil {
		return nil, fmt.Errorf("rate: %w", err)
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

// Find returns whose key it is, nil for nobody's.
func (d *Directory) Find(key []byte) *exchange.Consumer {
	if d == nil {
		return nil
	}
	h := Hash(sha256.Sum256(key))
	if _, n := d.slot(&h); n >= 0 {
		return d.owners[n]
	}
	return nil
}

// Subject returns whom the tokens of an issuer mean by a name, nil for nobody
// that is known.
func (d *Directory) Subject(issuer, name string) *exchange.Consumer {
	if d == nil || name == "" || issuer == "" {
		return nil
	}
	return d.subjects[subject{issuer, name}]
}

// Consumer returns the consumer of a name, nil for nobody that is known.
func (d *Directory) Consumer(name string) *exchange.Consumer {
	if d == nil {
		return nil
	}
	return d.names[name]
}

// Len is the number of keys.
func (d *Directory) Len() int {
	if d == nil {
		return 0
	}
	return len(d.hashes)
}
