// Package auth is the policy that says who is calling. Each way to tell,
// auth "api_key" and its like, is a Method in a folder of its own below; this
// package joins those of a route. What a caller may do isn't its matter. It
// starts no goroutine.
//
// The blocks are asked in their order. The first whose kind of credential the
// request has decides: whoever shows a wrong key isn't asked for a password. A
// token of one issuer isn't of the kind of another's block. A request without any
// is refused with 401. Whatever was decided, and by whom,
// no credential that a block looks for reaches the backend, unless the block
// says so.
package auth

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Method is one way to tell who is calling.
type Method interface {
	// Identify looks for a credential of its kind in x. It reports whether
	// there is one; a right one sets x.Consumer, a wrong one is an error, with a
	// fault of kind Unauthenticated where other credentials may help. Its text
	// goes to the log and never has the credential in it. An error without a
	// credential that applies stands for one that looks like its kind but is
	// another's matter: it decides if that is nobody's.
	Identify(x *exchange.Exchange) (applies bool, err error)
	// Hide keeps what Identify looks at from being forwarded, right or wrong.
	Hide(x *exchange.Exchange)
	// Challenge is what WWW-Authenticate says of it (RFC 9110, 11.6.1), after a
	// wrong credential of its kind or after none; "": nothing.
	Challenge(wrong bool) string
	// Explain says in a few words where it looks.
	Explain() string
}

// Witness is a Method that says what it knows of the credential that a request
// shows, for sidegate explain: never the credential itself; "": nothing.
type Witness interface {
	Witness(x *exchange.Exchange) string
}

// Answer is what Identify returns when the method itself answers the request:
// it sends the client somewhere else, say.
type Answer struct {
	Why   string          // for sidegate explain, and for the log where Fault is nil
	Fault *exchange.Fault // for the log; nil: all is well
	Reply func(x *exchange.Exchange) error
}

func (a *Answer) Error() string { return a.Why }

// Tester is a method that does more than to look: it asks somebody, or changes
// something. Test is Identify without that, for sidegate explain; a *Note is what
// it knows.
type Tester interface {
	Test(x *exchange.Exchange) (applies bool, err error)
}

// Pather is a method that answers some paths of its hosts itself, whatever paths
// the route has: see policy.Pather.
type Pather interface {
	Paths() map[string]string
}

// Note is what a Tester would do.
type Note string

func (n Note) Error() string { return string(n) }

// Policy asks the methods of a route.
type Policy struct {
	methods    []Method
	none       *exchange.Fault
	challenges [][]string // what WWW-Authenticate says after a wrong credential of method i; the last: after none
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
	_ policy.Pather    = (*Policy)(nil)
)

// Kind describes a method to the configuration: the block auth "label".
func Kind(label string, config func() any, newMethod func(cfg any) (Method, error)) policy.Kind {
	return policy.Kind{
		Name: "auth", Label: label, Repeat: true, Config: config, Join: join,
		New: func(cfg any) (policy.Policy, error) {
			m, err := newMethod(cfg)
			if err != nil {
				return nil, err
			}
			return m, nil
		},
	}
}

func join(_ string, list []policy.Policy) (policy.Policy, error) {
	p := &Policy{}
	for _, m := range list {
		m, ok := m.(Method)
		if !ok {
			return nil, fmt.Errorf("%T is no way to tell who is calling", m)
		}
		if o, ok := m.(Pather); ok {
			before, paths := p.Paths(), o.Paths()
			for _, path := range slices.Sorted(maps.Keys(paths)) {
				if other, taken := before[path]; taken && other != paths[path] {
					return nil, fmt.Errorf("two blocks answer the path %q: give one of them others", path)
				}
			}
		}
		p.methods = append(p.methods, m)
	}
	p.none = Refuse("no credential: " + p.Explain())
	for i := range len(p.methods) + 1 {
		p.challenges = append(p.challenges, p.challenge(i))
	}
	if len(p.challenges[len(p.methods)]) == 0 {
		p.none.Kind = exchange.Forbidden // a 401 has something to ask for (RFC 9110, 15.5.2)
	}
	return p, nil
}

// challenge is what is said after a wrong credential of method i: each challenge
// once, and none beside the one that tells more of the same.
func (p *Policy) challenge(i int) []string {
	var list []string
	for j, m := range p.methods {
		c := m.Challenge(j == i)
		plain := j != i && i < len(p.methods) && c == p.methods[i].Challenge(false)
		if c != "" && !plain && !slices.Contains(list, c) {
			list = append(list, c)
		}
	}
	return list
}

// Refuse returns the fault of a request whose credential is missing or wrong.
// It is made once, not for each request: refusing many must not cost.
func Refuse(why string) *exchange.Fault {
	return &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.Unauthenticated, Err: errors.New(why)}
}

// Request refuses whoever isn't known.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if i, err := p.identify(x, false); err != nil {
		if a, ok := err.(*Answer); ok { //nolint:errorlint // never wrapped
			if err := a.Reply(x); err != nil {
				return policy.Done, err
			}
			x.Err = a.Fault
			return policy.Done, nil
		}
		if f, ok := err.(*exchange.Fault); ok && f.Kind == exchange.Unauthenticated { //nolint:errorlint // a wrapped fault isn't one
			for _, c := range p.challenges[i] { // RFC 9110, 15.5.2
				x.ResponseEdits.AddID(exchange.WWWAuthenticate, "WWW-Authenticate", c)
			}
		}
		return policy.Done, err
	}
	for _, m := range p.methods {
		m.Hide(x)
	}
	return policy.Next, nil
}

// identify returns which method decided: len(p.methods): none. test leaves no
// trace but in x.
func (p *Policy) identify(x *exchange.Exchange, test bool) (int, error) {
	which, none := len(p.methods), error(p.none)
	for i, m := range p.methods {
		applies, err := ask(m, x, test)
		if applies {
			return i, err
		}
		if err != nil && which == len(p.methods) {
			which, none = i, err
		}
	}
	if f, ok := none.(*exchange.Fault); ok && f.Kind == exchange.Forbidden { //nolint:errorlint // a wrapped fault isn't one
		if p.none.Kind == exchange.Unauthenticated {
			return len(p.methods), p.none // another credential would help
		}
	}
	return which, none
}

func ask(m Method, x *exchange.Exchange, test bool) (bool, error) {
	if t, ok := m.(Tester); ok && test {
		return t.Test(x)
	}
	return m.Identify(x)
}

// Paths are those that the methods answer themselves.
func (p *Policy) Paths() map[string]string {
	var all map[string]string
	for _, m := range p.methods {
		if m, ok := m.(Pather); ok {
			if all == nil {
				all = map[string]string{}
			}
			maps.Copy(all, m.Paths())
		}
	}
	return all
}

// Explain says where the methods look, in their order.
func (p *Policy) Explain() string {
	var parts []string
	for _, m := range p.methods {
		parts = append(parts, m.Explain())
	}
	return strings.Join(parts, ", else ")
}

// Test says who is calling and by what, or why nobody is.
func (p *Policy) Test(x *exchange.Exchange) string {
	i, err := p.identify(x, true)
	text := verdict(x, err)
	if i == len(p.methods) {
		return text
	}
	if w, ok := p.methods[i].(Witness); ok {
		if said := w.Witness(x); said != "" {
			text += " (" + said + ")"
		}
	}
	return text
}

func verdict(x *exchange.Exchange, err error) string {
	note, answer := Note(""), (*Answer)(nil)
	switch {
	case errors.As(err, &note):
		return string(note)
	case errors.As(err, &answer):
		return "answers: " + answer.Why
	case err != nil:
		return "refuses: " + err.Error()
	case x.Consumer == nil && x.Claims != nil:
		return fmt.Sprintf("admits the subject %q, no known consumer", x.Claims.Text("sub"))
	case x.Consumer == nil:
		return "admits"
	default:
		return fmt.Sprintf("admits the consumer %q", x.Consumer.Name)
	}
}
