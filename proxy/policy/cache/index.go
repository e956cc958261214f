package cache

import (
	"slices"
	"strings"
)

// subject is an answer as purges see it.
type subject struct {
	uri   string // as keys of answers begin, without the fields that a key may have
	route string
	tags  string // as tagsOf makes them

	noQuery bool // its key has none
}

// index finds what selections an answer is among: the cost goes by the answer, not
// by how many selections there are. Each value stands for all selections that name
// the same.
type index[T any] struct {
	all                                 T
	hasAll                              bool
	uris, prefixes, hosts, tags, routes map[string]T
	lengths                             []int // of prefixes, ascending
}

// add has update change the value of each part of a selection.
func (x *index[T]) add(s *selection, update func(T) T) {
	if s.all {
		x.all, x.hasAll = update(x.all), true
	}
	for _, part := range []struct {
		m    *map[string]T
		list []string
	}{{&x.uris, s.uris}, {&x.prefixes, s.prefixes}, {&x.hosts, s.hosts}, {&x.tags, s.tags}, {&x.routes, s.routes}} {
		if len(part.list) > 0 && *part.m == nil {
			*part.m = map[string]T{}
		}
		for _, text := range part.list {
			(*part.m)[text] = update((*part.m)[text])
		}
	}
	for _, text := range s.prefixes {
		if i, ok := slices.BinarySearch(x.lengths, len(text)); !ok {
			x.lengths = slices.Insert(x.lengths, i, len(text))
		}
	}
}

// keep leaves only the values that f takes.
func (x *index[T]) keep(f func(T) bool) {
	for _, m := range []map[string]T{x.uris, x.prefixes, x.hosts, x.tags, x.routes} {
		for text, v := range m {
			if !f(v) {
				delete(m, text)
			}
		}
	}
	x.hasAll = x.hasAll && f(x.all)
	x.lengths = x.lengths[:0]
	for text := range x.prefixes {
		if i, ok := slices.BinarySearch(x.lengths, len(text)); !ok {
			x.lengths = slices.Insert(x.lengths, i, len(text))
		}
	}
}

// size is how many values there are.
func (x *index[T]) size() int {
	return len(x.uris) + len(x.prefixes) + len(x.hosts) + len(x.tags) + len(x.routes)
}

// visit calls f with the values of what a is among; the same value may come again.
func (x *index[T]) visit(a *subject, f func(T)) {
	found := func(v T, ok bool) {
		if ok {
			f(v)
		}
	}
	found(x.all, x.hasAll)
	one := func(m map[string]T, text string) {
		if len(m) > 0 {
			v, ok := m[text]
			found(v, ok)
		}
	}
	one(x.uris, a.uri)
	if a.noQuery && len(x.uris) > 0 {
		one(x.uris, a.uri+noQuery)
	}
	one(x.routes, a.route)
	for _, n := range x.lengths {
		if n > len(a.uri) {
			break
		}
		one(x.prefixes, a.uri[:n])
	}
	if len(x.tags) > 0 && a.tags != "" {
		for tag := range strings.SplitSeq(a.tags, tagSeparator) {
			one(x.tags, tag)
		}
	}
	if len(x.hosts) > 0 {
		x.visitHost(a.uri, f)
	}
}

// visitHost calls f with the values of an answer's host. One that has no host, since
// its route's key lacks it, may be any host's.
func (x *index[T]) visitHost(uri string, f func(T)) {
	scheme, rest, _ := strings.Cut(uri, "://")
	end := strings.IndexByte(rest, '/')
	if end <= 0 {
		for _, v := range x.hosts {
			f(v)
		}
		return
	}
	host := rest[:end]
	var room [300]byte
	one := func(b []byte) {
		if v, ok := x.hosts[string(b)]; ok {
			f(v)
		}
	}
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		name, port = host[:i], host[i+1:]
		if strings.IndexByte(host, ':') != i { // IPv6, which has no brackets here
			one(append(room[:0], host...))
		}
	}
	one(append(room[:0], name...))
	b := append(append(room[:0], name...), ':')
	if port == "" {
		b = append(b, defaultPort(scheme)...)
	} else {
		b = append(b, port...)
	}
	one(b)
	one(append(append(append(room[:0], scheme...), "://"...), host...))
}
