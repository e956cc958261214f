package ratelimit

import (
	"errors"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
)

// by says what clients are told apart by.
type by struct {
	kind byKind
	name string
	id   exchange.ID // of a header
}

type byKind uint8

const (
	byClientIP byKind = iota
	byConsumer
	byHeader
	byCookie
	byQuery
	byParam
	byRoute
)

func parseBy(text string) (by, error) {
	kind, name, named := strings.Cut(text, ":")
	switch {
	case text == "client_ip":
		return by{kind: byClientIP}, nil
	case text == "consumer":
		return by{kind: byConsumer}, nil
	case text == "route":
		return by{kind: byRoute}, nil
	case !named:
	case kind == "header":
		if !header.Name(name) || strings.ContainsAny(name, "_.") || exchange.Lookup(name).HopByHop() {
			return by{}, fmt.Errorf("%q isn't the name of a header field that arrives", name)
		}
		return by{byHeader, name, exchange.Lookup(name)}, nil
	case kind == "cookie":
		if !header.Name(name) {
			return by{}, fmt.Errorf("%q can't be a cookie's name", name)
		}
		return by{kind: byCookie, name: name}, nil
	case kind == "query":
		if !parameter(name) {
			return by{}, fmt.Errorf("%q can't be the name of a parameter", name)
		}
		return by{kind: byQuery, name: name}, nil
	case kind == "param":
		if name == "" {
			return by{}, errors.New("param: lacks the name of a parameter of the path")
		}
		return by{kind: byParam, name: name}, nil
	}
	return by{}, fmt.Errorf("%q isn't client_ip, consumer, header:NAME, cookie:NAME, query:NAME, param:NAME or route", text)
}

// parameter reports whether name can stand in a query and in an answer's field
// as it is.
func parameter(name string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("&=+%#\"\\", c) >= 0 {
			return false
		}
	}
	return name != ""
}

// Other clients than those of the limit's own kind: who has no consumer, no such
// field, is counted by its address, apart from the others.
const apart = 0x9e3779b97f4a7c15

// key is the hash of the client of x in the limit id. It allocates nothing.
func (b *by) key(s *Store, id uint64, x *exchange.Exchange) uint64 {
	switch b.kind {
	case byRoute:
		return mix(id)
	case byClientIP:
		return mix(id + s.address(x))
	}
	h, ok := b.value(s, x)
	if !ok {
		return mix(id + apart + s.address(x))
	}
	return mix(id + h)
}

// value is the hash of what a request says of itself.
func (b *by) value(s *Store, x *exchange.Exchange) (uint64, bool) {
	switch b.kind {
	case byConsumer:
		if x.Consumer == nil {
			return 0, false
		}
		return s.hash(x.Consumer.Name), true
	case byHeader:
		return b.fields(s, x)
	case byCookie:
		return b.cookie(s, x)
	case byQuery:
		for q := x.Target.Query; q != ""; {
			var pair string
			pair, q, _ = strings.Cut(q, "&")
			if name, v, _ := strings.Cut(pair, "="); name == b.name {
				return s.hash(v), true
			}
		}
	case byParam:
		for i := range x.Params {
			if x.Params[i].Name == b.name {
				return s.hash(x.Params[i].Value), true
			}
		}
	}
	return 0, false
}

// fields is the hash of all fields of that name: which of several a service
// takes isn't ours to guess.
func (b *by) fields(s *Store, x *exchange.Exchange) (h uint64, ok bool) {
	if b.id != exchange.Other && !x.Request.Has(b.id) {
		return 0, false
	}
	for i := range x.Request.Len() {
		if x.Request.ID(i) != b.id {
			continue
		}
		name, v := x.Request.Field(i)
		if b.id == exchange.Other && !exchange.EqualFold(name, b.name) {
			continue
		}
		h, ok = mix(h)+s.hash(v), true
	}
	return h, ok
}

// cookie is the hash of the first cookie of that name (RFC 6265, 5.4).
func (b *by) cookie(s *Store, x *exchange.Exchange) (uint64, bool) {
	if !x.Request.Has(exchange.Cookie) {
		return 0, false
	}
	for i := range x.Request.Len() {
		if x.Request.ID(i) != exchange.Cookie {
			continue
		}
		for _, list := x.Request.Field(i); list != ""; {
			var pair string
			pair, list, _ = strings.Cut(list, ";")
			if name, v, ok := strings.Cut(strings.Trim(pair, " \t"), "="); ok && name == b.name {
				return s.hash(v), true
			}
		}
	}
	return 0, false
}

// address is the hash of the client's address; with IPv6 of its /64, which is
// what one client has.
func (s *Store) address(x *exchange.Exchange) uint64 {
	a := x.ClientIP.Unmap()
	var b [9]byte
	if a.Is4() {
		v4 := a.As4()
		copy(b[:], v4[:])
	} else if a.Is6() {
		v6 := a.As16()
		copy(b[:8], v6[:8])
		b[8] = 6
	}
	return maphash.Bytes(s.seed, b[:])
}
