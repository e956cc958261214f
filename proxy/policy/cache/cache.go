package cache

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
)

// Config is a cache block.
type Config struct {
	// How long an answer is fresh that doesn't say so, of status 200, 203, 204, 300, 301 or 308; "0s": it isn't stored.
	DefaultTTL time.Duration `hcl:"default_ttl,attr" default:"0s" min:"0s"`
	// The same for errors that are the same for everyone: 404, 405, 410, 414 and 501.
	NegativeTTL time.Duration `hcl:"negative_ttl,attr" default:"0s" min:"0s"`
	// How long answers are fresh, whatever they say of it; never those that say no-store or private, set a cookie, or are to requests with Authorization.
	OverrideTTL time.Duration `hcl:"override_ttl,attr" default:"0s" min:"0s"`
	// Without default_ttl, let an answer that doesn't say so be fresh for a tenth of the time since Last-Modified, a day at most.
	Heuristics bool `hcl:"heuristics,attr" default:"false"`
	// Largest body that is stored. In memory it is a quarter of cache.memory at most; larger ones need cache.disk.
	MaxObject int64 `hcl:"max_object,attr" unit:"bytes" default:"1MiB" min:"0B" max:"10GiB"`
	// What answers are found by, beside scheme, route, who is calling, and Vary: host, path, query, header.NAME; the first three unless given.
	Key []string `hcl:"key,attr"`
	// Which requests may be answered from the cache, a CEL expression over request, consumer and claims; all unless given.
	When string `hcl:"when,attr"`
	// Which requests go to the service in any case, and their answers aren't stored, a CEL expression likewise.
	Bypass string `hcl:"bypass,attr"`
	// Answers are for everyone, whoever is calling, and whatever Authorization the request has. Without it they are kept for each consumer and token apart, unless they say public.
	Public bool `hcl:"public,attr" default:"false"`
	// How long after that a stale answer is given while a new one is fetched, where the answer doesn't say.
	StaleWhileRevalidate time.Duration `hcl:"stale_while_revalidate,attr" default:"0s" min:"0s"`
	// How long a stale answer is given instead of an error (500, 502, 503, 504, or none at all), where the answer doesn't say.
	StaleIfError time.Duration `hcl:"stale_if_error,attr" default:"0s" min:"0s"`
	// How long requests wait for an answer that another request is fetching, before they ask by themselves.
	Wait time.Duration `hcl:"wait,attr" default:"5s" min:"0s" max:"1m"`
	// Whether clients may ask for newer or older answers, by Cache-Control and Pragma.
	ClientControl bool `hcl:"client_control,attr" default:"true"`
	// Whether the fields by which services tag answers, Surrogate-Key and Cache-Tag, go on to clients: for a CDN in front.
	ShowTags bool `hcl:"show_tags,attr" default:"false"`
}

// Deps are what the policy works with.
type Deps struct {
	Store      *Store                              // nil: nothing is stored
	Conditions func() (*condition.Compiler, error) // compiles expressions; nil: one of its own
}

// Policy answers from memory.
type Policy struct {
	Config
	parts        parts
	when, bypass *condition.Program // nil: all, none
	options      rules.Options

	store   *Store
	route   string
	counts  *counts
	guarded bool         // the route asks who is calling
	coder   policy.Coder // encodes the route's responses; nil: nobody does
	refresh func(x *exchange.Exchange, prepare func(c *exchange.Exchange)) bool
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Responder = (*Policy)(nil)
	_ policy.Finisher  = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
	_ policy.Guarded   = (*Policy)(nil)
	_ policy.Refresher = (*Policy)(nil)
	_ policy.Recoded   = (*Policy)(nil)
)

// Kind describes the policy to the configuration.
func Kind(d Deps) policy.Kind {
	if d.Conditions == nil {
		d.Conditions = condition.NewCompiler
	}
	return policy.Kind{
		Name:   "cache",
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config), d.Conditions) },
		Join: func(route string, list []policy.Policy) (policy.Policy, error) {
			p := *list[len(list)-1].(*Policy) // the last block's, as with all that don't repeat
			p.route = strings.Clone(route)
			if p.store = d.Store; p.store == nil {
				p.store = NewStore(StoreConfig{})
			}
			p.counts = p.store.of(route)
			return &p, nil
		},
	}
}

// New checks a block. What counts is the policy that Join makes.
func New(c Config, conditions func() (*condition.Compiler, error)) (*Policy, error) {
	p := &Policy{Config: c, options: rules.Options{
		DefaultTTL: c.DefaultTTL, NegativeTTL: c.NegativeTTL, OverrideTTL: c.OverrideTTL, Heuristics: c.Heuristics, Public: c.Public,
		WhileRevalidate: c.StaleWhileRevalidate, IfError: c.StaleIfError,
	}}
	var errs, err error
	if p.parts, err = parseKey(c.Key); err != nil {
		errs = fmt.Errorf("key: %w", err)
	}
	expression := func(name, text string) *condition.Program {
		if text == "" {
			return nil
		}
		compiler, err := conditions()
		if err == nil {
			var program *condition.Program
			if program, err = compiler.Compile(text); err == nil {
				return program
			}
		}
		errs = errors.Join(errs, fmt.Errorf("%s: %w", name, err))
		return nil
	}
	p.when, p.bypass = expression("when", c.When), expression("bypass", c.Bypass)
	return p, errs
}

// Guarded says that the route asks who is calling.
func (p *Policy) Guarded() { p.guarded = true }

// Refresh gives the way to fetch an answer without a client.
func (p *Policy) Refresh(by func(x *exchange.Exchange, prepare func(c *exchange.Exchange)) bool) {
	p.refresh = by
}

// applies reports whether a request has to do with the cache at all. A condition
// that can't be evaluated means that it hasn't.
func (p *Policy) applies(x *exchange.Exchange) bool {
	if p.when != nil && !p.when.Eval(x) {
		return false
	}
	if p.bypass == nil {
		return true
	}
	skip, err := p.bypass.EvalErr(x)
	return err == nil && !skip
}
