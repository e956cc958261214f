// Package key says what clients are told apart by, for the policies that count:
// by = "consumer" and its like. It isn't a policy itself and starts no goroutine.
package key

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
)

// By is what clients are told apart by.
type By struct {
	Kind Kind
	name string
	id   exchange.ID // of a header
	cel  *condition.Program
}

// Kind is the kind of a By.
type Kind uint8

// The kinds. The first three have no value of their own.
const (
	ClientIP Kind = iota
	Route         // all together
	Consumer
	Header
	Cookie
	Query
	Param
	Claim
	CEL
)

// Parse reads what by says. Expressions are compiled by conditions.
func Parse(text string, conditions func() (*condition.Compiler, error)) (By, error) {
	kind, name, named := strings.Cut(text, ":")
	switch {
	case text == "client_ip":
		return By{Kind: ClientIP}, nil
	case text == "consumer":
		return By{Kind: Consumer}, nil
	case text == "route":
		return By{Kind: Route}, nil
	case !named:
	case kind == "header":
		if !header.Name(name) || strings.ContainsAny(name, "_.") || exchange.Lookup(name).HopByHop() {
			return By{}, fmt.Errorf("%q isn't the name of a header field that arrives", name)
		}
		return By{Kind: Header, name: name, id: exchange.Lookup(name)}, nil
	case kind == "cookie":
		if !header.Name(name) {
			return By{}, fmt.Errorf("%q can't be a cookie's name", name)
		}
		return By{Kind: Cookie, name: name}, nil
	case kind == "query":
		if !printable(name, "&=+%#\"\\") {
			return By{}, fmt.Errorf("%q can't be the name of a parameter", name)
		}
		return By{Kind: Query, name: name}, nil
	case kind == "param":
		if name == "" {
			return By{}, errors.New("param: lacks the name of a parameter of the path")
		}
		return By{Kind: Param, name: name}, nil
	case kind == "claim":
		if !printable(name, "\"\\") {
			return By{}, fmt.Errorf("%q can't be the name of a claim here; write cel:claims[\"…\"]", name)
		}
		return By{Kind: Claim, name: name}, nil
	case kind == "cel":
		c, err := conditions()
		if err != nil {
			return By{}, err
		}
		p, err := c.Key(name)
		return By{Kind: CEL, cel: p}, err
	}
	return By{}, fmt.Errorf("%q isn't client_ip, consumer, header:NAME, cookie:NAME, query:NAME, param:NAME, claim:NAME, cel:EXPRESSION or route", text)
}

// printable reports whether name can stand in an answer's field as it is (RFC
// 9651, 3.3.3), without any of the characters in not.
func printable(name, not string) bool {
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(not, c) >= 0 {
			return false
		}
	}
	return name != ""
}

// Label is what an answer's field, a metric and the log call it: text, or "cel"
// for an expression, which is nobody's business outside.
func (b *By) Label(text string) string {
	if b.Kind == CEL {
		return "cel"
	}
	return text
}

// Param is the parameter of the path that is read; "": none.
func (b *By) Param() string {
	if b.Kind == Param {
		return b.name
	}
	return ""
}

// Secret reports whether a value may be a credential, or have one in it: nothing
// to write down.
func (b *By) Secret() bool {
	switch b.Kind {
	case Header, Cookie, Query:
		return true
	case CEL:
		return b.cel.ReadsHeaders() || b.cel.ReadsQuery()
	default:
		return false
	}
}

// Value is what a request says of itself: a view that lives as long as the
// exchange. Without one, for want of a consumer, a field, a claim, a client is
// known by its address alone. An error says why an expression has no value. It
// allocates nothing, but for what an expression does.
func (b *By) Value(x *exchange.Exchange) (v string, ok bool, err error) {
	switch b.Kind {
	case Consumer:
		if x.Consumer == nil {
			return "", false, nil
		}
		return x.Consumer.Name, true, nil
	case Header:
		v, ok = b.fields(x)
	case Cookie:
		v, ok = b.cookie(x)
	case Query:
		for q := x.Target.Query; q != ""; {
			var pair string
			pair, q, _ = strings.Cut(q, "&")
			if name, v, _ := strings.Cut(pair, "="); name == b.name {
				return v, true, nil
			}
		}
	case Param:
		for i := range x.Params {
			if x.Params[i].Name == b.name {
				return x.Params[i].Value, true, nil
			}
		}
	case Claim:
		v = x.Claims.Text(b.name)
		return v, v != "", nil
	case CEL:
		v, err = b.cel.Text(x)
		return v, v != "" && err == nil, err
	}
	return v, ok, nil
}

// fields are the values of all fields of that name: which of several a service
// takes isn't ours to guess. What joins them stands in no value (RFC 9110, 5.5).
func (b *By) fields(x *exchange.Exchange) (all string, ok bool) {
	if b.id != exchange.Other && !x.Request.Has(b.id) {
		return "", false
	}
	for i := range x.Request.Len() {
		if x.Request.ID(i) != b.id {
			continue
		}
		name, v := x.Request.Field(i)
		if b.id == exchange.Other && !exchange.EqualFold(name, b.name) {
			continue
		}
		if !ok {
			all, ok = v, true
			continue
		}
		var buf [512]byte
		all = x.Keep(append(append(append(buf[:0], all...), 0), v...))
	}
	return all, ok
}

// cookie is the value of the first cookie of that name (RFC 6265, 5.4).
func (b *By) cookie(x *exchange.Exchange) (string, bool) {
	if !x.Request.Has(exchange.Cookie) {
		return "", false
	}
	for i := range x.Request.Len() {
		if x.Request.ID(i) != exchange.Cookie {
			continue
		}
		for _, list := x.Request.Field(i); list != ""; {
			var pair string
			pair, list, _ = strings.Cut(list, ";")
			if name, v, ok := strings.Cut(strings.Trim(pair, " \t"), "="); ok && name == b.name {
				return v, true
			}
		}
	}
	return "", false
}

// Address is the client's address as it counts: with IPv6 its /64, which is what
// one client has. The last byte tells IPv6 from IPv4.
func Address(x *exchange.Exchange) (b [9]byte) {
	a := x.ClientIP.Unmap()
	if a.Is4() {
		v4 := a.As4()
		copy(b[:], v4[:])
	} else if a.Is6() {
		v6 := a.As16()
		copy(b[:8], v6[:8])
		b[8] = 6
	}
	return b
}
