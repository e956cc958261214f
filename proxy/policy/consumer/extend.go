package consumer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// compiling is a directory with room for consumers.
func compiling(consumers []*Config, plans map[string]*exchange.Plan) *Directory {
	n := 0
	for _, c := range consumers {
		n += len(c.Keys)
	}
	d := newDirectory(n)
	d.subjects, d.users, d.sans = map[subject]*exchange.Consumer{}, map[string]*Password{}, map[san]*exchange.Consumer{}
	d.plans = plans
	d.names = sync.OnceValue(func() []Known {
		list := slices.Clone(d.all)
		slices.SortFunc(list, func(a, b Known) int { return strings.Compare(a.Name, b.Name) })
		return list
	})
	return d
}

// Extend makes the directory of consumers that stand beside those of d, by its
// plans. Each consumer is in it as a whole or not at all: one that has the name,
// or anything it is known by, of one in d, or of an earlier one, is left out, and
// told of by its place in the list.
func (d *Directory) Extend(consumers []*Config) (*Directory, map[int]error) {
	more := compiling(consumers, d.plans)
	names := make(map[string]bool, len(consumers))
	left := map[int]error{}
	for i, c := range consumers {
		err := d.conflict(c, names)
		if err == nil {
			// By itself first, so that nothing of a bad one gets in.
			err = compiling([]*Config{c}, d.plans).admit(c, d)
		}
		if err == nil {
			err = more.conflicts(c)
		}
		if err == nil {
			err = more.admit(c, d)
		}
		if err != nil {
			left[i] = err
			continue
		}
		names[c.Name] = true
	}
	return more, left
}

// conflict reports that the name of a consumer is another's.
func (d *Directory) conflict(c *Config, names map[string]bool) error {
	if d.Named(c.Name) != nil {
		return fmt.Errorf("consumer %q stands in the configuration's files, too, which come first", c.Name)
	}
	if names[c.Name] {
		return fmt.Errorf("there is another consumer %q, which comes first", c.Name)
	}
	return nil
}

// conflicts reports what of a consumer is one's in d already.
func (d *Directory) conflicts(c *Config) error {
	for _, k := range c.Keys {
		h, err := ParseHash(k.SHA256)
		if err != nil {
			return err // it is in no directory then
		}
		if _, n := d.slot(&h); n >= 0 {
			return same(c, "api_key: sha256", d.owners[n], "key")
		}
	}
	for _, b := range c.Basic {
		if p := d.users[b.User]; p != nil {
			return same(c, "basic: user", p.Consumer, "one")
		}
	}
	for _, m := range c.MTLS {
		if s, err := parseSAN(m.SAN); err == nil && d.sans[s] != nil {
			return same(c, "mtls: san", d.sans[s], "one")
		}
	}
	for _, j := range c.JWT {
		if o := d.subjects[subject{j.Issuer, j.Subject}]; o != nil {
			return same(c, "jwt", o, "subject")
		}
	}
	return nil
}

func same(c *Config, where string, other *exchange.Consumer, what string) error {
	return fmt.Errorf("consumer %q: %s: consumer %q has the same %s", c.Name, where, other.Name, what)
}

// admit adds a consumer, with all it is known by, unless that is another's in
// first.
func (d *Directory) admit(c *Config, first *Directory) (errs error) {
	if first != nil {
		if err := first.conflicts(c); err != nil {
			return err
		}
	}
	x := &exchange.Consumer{Name: c.Name, Plan: d.plans[c.Plan], Labels: c.Labels, Use: c.Use, Priority: exchange.ParsePriority(c.Priority)}
	if x.Plan != nil && c.Priority == "" {
		x.Priority = x.Plan.Priority
	}
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
			continue
		}
		if err := d.end(k); err != nil {
			errs = errors.Join(errs, fmt.Errorf("consumer %q: api_key: %w", c.Name, err))
		}
	}
	errs = errors.Join(errs, d.addUsers(c, x), d.addSANs(c, x))
	for _, j := range c.JWT {
		s := subject{j.Issuer, j.Subject}
		if d.subjects[s] != nil {
			errs = errors.Join(errs, same(c, "jwt", d.subjects[s], "subject"))
		}
		d.subjects[s] = x
	}
	d.all = append(d.all, Known{x, c})
	return errs
}
