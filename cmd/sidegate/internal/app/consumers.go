package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// maxGuesses bounds among how many names the one that was meant is looked for.
const maxGuesses = 10_000

// directories are the files' consumers, and those beside them.
func (s *keyStore) directories() (files, more *consumer.Directory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.documents.known, s.ring.More()
}

// find finds a consumer, and reports whether a file has it.
func (s *keyStore) find(name string) (k consumer.Known, inFile, ok bool) {
	files, more := s.directories()
	if k, ok = files.Known(name); ok {
		return k, true, true
	}
	k, ok = more.Known(name)
	return k, false, ok
}

// names are the next n consumers and owners of keys whose names aren't before
// one, sorted.
func (s *keyStore) names(from string, n int) []string {
	files, more := s.directories()
	var list []string
	for _, d := range []*consumer.Directory{files, more} {
		all := d.From(from)
		for _, k := range all[:min(n, len(all))] {
			list = append(list, k.Name)
		}
	}
	owners := s.ring.Owners()
	i, _ := slices.BinarySearch(owners, from)
	list = append(list, owners[i:min(i+n, len(owners))]...)
	slices.Sort(list)
	list = slices.Compact(list)
	return list[:min(n, len(list))]
}

// nobody is the refusal for a name that no consumer has.
func (s *keyStore) nobody(name string) error {
	text := fmt.Sprintf("there is no consumer %q", name)
	if names := s.names("", maxGuesses+1); len(names) <= maxGuesses {
		if advice := config.DidYouMean(name, names); advice != "" {
			text += ". " + advice
		}
	}
	return admin.Refuse(http.StatusNotFound, "%s", text)
}

// Consumers lists the consumers by name.
func (a *App) Consumers(after string, limit int) admin.ConsumerPage {
	page := admin.ConsumerPage{Consumers: []admin.ConsumerStatus{}}
	names := a.keys.names(after, limit+2)
	if len(names) > 0 && names[0] == after {
		names = names[1:]
	}
	if len(names) > limit {
		names = names[:limit]
		page.Next = names[limit-1]
	}
	for _, name := range names {
		page.Consumers = append(page.Consumers, a.consumer(name))
	}
	return page
}

// Consumer shows one.
func (a *App) Consumer(name string) (admin.ConsumerStatus, error) {
	c := a.consumer(name)
	if c.Origin == "" && c.Keys == 0 {
		return c, a.keys.nobody(name)
	}
	return c, nil
}

func (a *App) consumer(name string) admin.ConsumerStatus {
	out := admin.ConsumerStatus{Name: name, Keys: len(a.keys.ring.Of(name))}
	k, inFile, ok := a.keys.find(name)
	if !ok {
		return out
	}
	c := k.Config
	out.Origin, out.Plan, out.Labels = a.placeOf(c, c, inFile), c.Plan, c.Labels
	out.Keys += len(c.Keys)
	for _, j := range c.JWT {
		out.JWT = append(out.JWT, admin.Subject{Subject: j.Subject, Issuer: j.Issuer})
	}
	for _, b := range c.Basic {
		out.Users = append(out.Users, b.User)
	}
	for _, m := range c.MTLS {
		out.SANs = append(out.SANs, m.SAN)
	}
	return out
}

// placeOf says where a consumer's block, or a part of it, is written.
func (a *App) placeOf(c *consumer.Config, part any, inFile bool) string {
	s := a.keys
	s.mu.Lock()
	defer s.mu.Unlock()
	if inFile {
		return s.documents.files.Origin(part)
	}
	return s.documents.places[c].String()
}

// Keys lists the keys, of one consumer or by consumer.
func (a *App) Keys(ctx context.Context, name, after string, limit int) (admin.KeyPage, error) {
	page := admin.KeyPage{Keys: []admin.KeyStatus{}}
	if err := a.keys.use(ctx); err != nil {
		return page, err
	}
	from, skip := name, 0
	if i := strings.LastIndexByte(after, ':'); i >= 0 {
		from = after[:i]
		skip, _ = strconv.Atoi(after[i+1:]) // one that isn't ours begins at 0
	}
	if name != "" && len(a.keysOf(name)) == 0 {
		if _, _, ok := a.keys.find(name); !ok {
			return page, a.keys.nobody(name)
		}
	}
	for {
		names := []string{name}
		if name == "" {
			names = a.keys.names(from, limit+1)
		}
		for _, n := range names {
			if n != from {
				skip = 0
			}
			for i, k := range a.keysOf(n) {
				if i < skip {
					continue
				}
				if len(page.Keys) == limit {
					page.Next = fmt.Sprintf("%s:%d", n, i)
					return page, nil
				}
				page.Keys = append(page.Keys, k)
			}
		}
		if name != "" || len(names) <= limit {
			return page, nil
		}
		from, skip = names[len(names)-1]+"\x00", 0 // the next name there can be
	}
}

// keysOf are a consumer's keys: those that are configured, then those that were
// made.
func (a *App) keysOf(name string) []admin.KeyStatus {
	now := time.Now()
	var list []admin.KeyStatus
	if k, inFile, ok := a.keys.find(name); ok {
		for _, key := range k.Config.Keys {
			list = append(list, configured(k.Name, key, a.placeOf(k.Config, key, inFile), now))
		}
	}
	for _, k := range a.keys.ring.Of(name) {
		list = append(list, a.keys.keyStatus(&k, now))
	}
	return list
}

// configured is a key of a consumer's block.
func configured(name string, k *consumer.KeyConfig, place string, now time.Time) admin.KeyStatus {
	h, _ := consumer.ParseHash(k.SHA256) // it has been checked
	e := consumer.Key{Hash: h}
	out := admin.KeyStatus{Consumer: name, ID: h.ID(), Origin: place}
	if end, err := consumer.ParseEnd(k.Expires); err == nil {
		e.Expires, out.Expires = end.Unix(), end.UTC()
	}
	out.State = e.State(now).String()
	return out
}

func (s *keyStore) keyStatus(k *consumer.Kept, now time.Time) admin.KeyStatus {
	return admin.KeyStatus{
		Consumer: k.Consumer, ID: k.Hash.ID(), Created: moment(k.Created), Expires: moment(k.Expires), Revoked: moment(k.Revoked),
		State: s.ring.State(k, now).String(), Origin: k.From.String(),
	}
}

// moment is the time of seconds since 1970, 0: none.
func moment(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// use has Consul's keys brought, and waits for them.
func (s *keyStore) use(ctx context.Context) error {
	s.ring.Use()
	ctx, cancel := context.WithTimeout(ctx, 2*firstKeys)
	defer cancel()
	s.wait(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known {
		return nil
	}
	why := "it doesn't answer"
	if c, kv, ok := s.shared(); ok {
		for _, w := range c.Status() {
			if w.What == "kv "+keysPrefix(kv) && w.Error != "" {
				why = w.Error
			}
		}
	}
	return admin.Refuse(http.StatusServiceUnavailable, "what keys there are in Consul isn't known: %s", why)
}

// key finds the one that an id names, or the beginning of its id.
func (a *App) key(id string) (consumer.Kept, error) {
	var none consumer.Kept
	id = strings.ToLower(id)
	if len(id) < 4 || len(id) > 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return none, admin.Refuse(http.StatusBadRequest, "%.70q isn't the id of a key: four hexadecimal digits or more; sidegate key list shows them", id)
	}
	found := a.keys.ring.ByID(id)
	configured := a.configuredKeys(id)
	switch {
	case len(found)+len(configured) > 1:
		return none, admin.Refuse(http.StatusConflict, "the ids of %d keys begin with %s: write more of it", len(found)+len(configured), id)
	case len(found) == 1:
		return found[0], nil
	case len(configured) == 1:
		k := configured[0]
		return none, admin.Refuse(http.StatusConflict, "key %s of consumer %q stands in %s: change it there", k.ID, k.Consumer, k.Origin)
	default:
		return none, admin.Refuse(http.StatusNotFound, "there is no key %s; sidegate key list shows which there are", id)
	}
}

// configuredKeys are those of consumers' blocks whose ids begin with a text.
func (a *App) configuredKeys(id string) (list []admin.KeyStatus) {
	files, more := a.keys.directories()
	for _, d := range []*consumer.Directory{files, more} {
		for _, k := range d.From("") {
			for _, key := range k.Config.Keys {
				if len(key.SHA256) >= len(id) && strings.EqualFold(key.SHA256[:len(id)], id) {
					list = append(list, configured(k.Name, key, a.placeOf(k.Config, key, d == files), time.Now()))
				}
			}
		}
	}
	return list
}

// refusal is the error of a change as the caller sees it.
func refusal(err error) error {
	var e *admin.Error
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case errors.Is(err, consumer.ErrNoKey):
		return admin.Refuse(http.StatusNotFound, "%v", err)
	case errors.Is(err, consumer.ErrRevoked), errors.Is(err, consumer.ErrExpired):
		return admin.Refuse(http.StatusConflict, "%v", err)
	default:
		return admin.Refuse(http.StatusServiceUnavailable, "nothing was changed: %v", err)
	}
}
