// Package waf is the policy that looks for attacks in requests: Coraza with the
// OWASP Core Rule Set, both built in. It knows what an attack on anybody's
// service looks like; what a service of one's own takes is validate's matter,
// who may call, that of auth and block.
//
//	waf.go         the block, and what becomes of a request
//	body.go        taking a body into memory, and giving it back
//	json.go        a JSON document as arguments
//	inspect.go     one request through the rules, and what they found
//	directives.go  the rules of a block, as text
//	own.go         the rules of the operator's own
//	engine.go      text made into rules, once for all that say the same
//	store.go       what the gateway owns: engines, counts, memory
//	turns.go       how many are inspected at once, and whose turn it is
//	audit.go       the lines of the audit log
//
// It starts no goroutine.
package waf

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/corazawaf/coraza/v3/types/variables"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Config is a waf block.
type Config struct {
	// What becomes of a request in which an attack is found: block answers it with 403, detect lets it pass and counts and logs it, off inspects nothing (for a route whose bundle has a waf).
	Mode string `hcl:"mode,attr" default:"block" enum:"block|detect|off"`
	// How suspicious the rules are: 1 suits most services, each further level finds more and is wrong more often.
	Paranoia int `hcl:"paranoia,attr" default:"1" min:"1" max:"4"`
	// From which score on a request is an attack: a critical finding counts 5, an error 4, a warning 3, a notice 2.
	Threshold int `hcl:"threshold,attr" default:"5" min:"1" max:"10000"`
	// How much of a body is inspected; it is in memory meanwhile.
	Body int64 `hcl:"body,attr" unit:"bytes" default:"128KiB" min:"1KiB" max:"1MiB"`
	// What becomes of a longer body: refuse answers it with 413; pass inspects the part up to there and lets the rest through unseen.
	Beyond string `hcl:"beyond,attr" default:"refuse" enum:"refuse|pass"`
	// Most arguments of a request: parameters, form fields, values of a JSON document, nodes of an XML one, cookies. More are an attack.
	Arguments int `hcl:"arguments,attr" default:"1000" min:"10" max:"100000"`
	// Media types whose bodies pass unseen, and may be of any size: "image/png", "image/*", "application/grpc". The rules can read forms, multipart, JSON, XML and text; a body of any other type that isn't named here is refused with 415.
	Uninspected []string `hcl:"uninspected,attr"`
	// A file with rules of one's own (SecRule, SecAction, SecMarker), which run before the built-in ones; read again when it changes.
	RulesFile string `hcl:"rules_file,attr"`
	// Rules that are wrong about this service.
	Excludes []*ExcludeConfig `hcl:"exclude,block"`
}

// ExcludeConfig takes rules out, wholly or for some parts of a request.
type ExcludeConfig struct {
	// The rules: an id ("942100"), a range of ids ("942000-942999"), or a tag ("attack-sqli").
	Rules []string `hcl:"rules,attr" required:"true"`
	// Parts of a request that they don't look at any more: "ARGS:q", "REQUEST_COOKIES", "REQUEST_HEADERS:User-Agent"; without, they don't run.
	Targets []string `hcl:"targets,attr"`
}

// Policy looks for attacks.
type Policy struct {
	Config
	media  mediaTypes
	text   string // the rules
	route  string
	store  *Store
	engine *engine
	counts *counts
	within time.Duration // in which a body has to come

	tooLarge, badType, encoded, busy, greedy, slow *exchange.Fault
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
)

// off is the policy of a block that inspects nothing.
type off struct{}

// Explain says so.
func (off) Explain() string { return "off" }

// Kind describes the policy to the configuration. The rules are made, and what
// is found is counted, in s.
func Kind(s *Store) policy.Kind {
	return policy.Kind{
		Name:   "waf",
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
		Join: func(route string, list []policy.Policy) (policy.Policy, error) {
			last := list[len(list)-1].(*Policy) // the last block's, as with all that don't repeat
			if last.Mode == "off" {
				return off{}, nil
			}
			p := *last
			e, err := s.engine(p.text)
			if err != nil {
				return nil, err
			}
			if err := e.check(p.Excludes); err != nil {
				return nil, err
			}
			p.route, p.store, p.engine, p.counts = route, s, e, s.of(route, p.Mode)
			return &p, nil
		},
	}
}

// New checks a block. What inspects is the policy that Join makes: making all
// the rules takes a while.
func New(c Config) (*Policy, error) {
	p := &Policy{Config: c}
	var errs error
	fail := func(argument string, err error) { errs = errors.Join(errs, named(argument, err)) }
	var err error
	p.media, err = newMediaTypes(c.Uninspected)
	fail("uninspected", err)
	var own []directive
	if c.RulesFile != "" {
		b, err := os.ReadFile(c.RulesFile)
		if err == nil {
			own, err = parseOwn(c.RulesFile, string(b))
		}
		fail("rules_file", err)
	}
	for _, e := range c.Excludes {
		fail("exclude", e.check())
	}
	if errs != nil {
		return nil, errs
	}
	p.text = directives(&c, own)
	p.within = slack + time.Duration(c.Body/bytesPerSecond)*time.Second
	fault := func(s exchange.Source, k exchange.Kind, format string, args ...any) *exchange.Fault {
		return exchange.NewFault(s, k, "waf: "+format, args...) // made once: refusing many must not cost
	}
	p.tooLarge = fault(exchange.FromClient, exchange.BodyTooLarge, "a body of more than %d bytes, which beyond refuses", c.Body)
	p.badType = fault(exchange.FromClient, exchange.UnsupportedMedia, "a body of a type that the rules can't read and uninspected doesn't name")
	p.encoded = fault(exchange.FromClient, exchange.UnsupportedMedia, "a body with a Content-Encoding, which the rules can't read")
	p.busy = fault(exchange.FromPolicy, exchange.Overloaded, "too many requests to inspect at once")
	p.slow = fault(exchange.FromClient, exchange.ClientTimeout, "the body takes too long to come")
	p.greedy = fault(exchange.FromPolicy, exchange.RateLimited, "others wait, and inspecting this address's requests has taken more than its share of the time")
	return p, nil
}

// named puts the name of an argument before err, or each of the errors in it.
func named(argument string, err error) error {
	j, many := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !many:
		return fmt.Errorf("%s: %w", argument, err)
	}
	var errs error
	for _, e := range j.Unwrap() {
		errs = errors.Join(errs, named(argument, e))
	}
	return errs
}

// blocks reports whether what is found is refused.
func (p *Policy) blocks() bool { return p.Mode == "block" }

// Request inspects the request, and refuses it if it is an attack.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	r := reading{x: x}
	defer func() { p.store.release(x.ClientIP, r.held) }()
	if err := p.read(&r); err != nil {
		return policy.Done, err
	}
	p.counts.requests.Add(1)
	if no := p.store.turns.take(x.ClientIP); no != granted {
		return p.overload(x, no)
	}
	begin := time.Now()
	found, err := p.inspect(&r)
	took := time.Since(begin)
	p.store.turns.leave(x.ClientIP, took)
	p.counts.nanos.Add(int64(took))
	switch {
	case err != nil && p.blocks():
		return policy.Done, err // what can't be inspected isn't let through
	case err != nil:
		p.counts.unseen.Add(1)
		return policy.Next, nil
	case found == nil:
		return policy.Next, nil
	}
	x.Attack, x.Blocked = found.ids(), p.blocks()
	p.counts.attacks.Add(1)
	p.store.audit(p, x, found)
	if !p.blocks() {
		return policy.Next, nil
	}
	return policy.Done, &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.Forbidden, Err: errors.New("waf: " + found.text(p.Threshold))}
}

// overload is what becomes of a request that has no turn. Mode detect only
// watches.
func (p *Policy) overload(x *exchange.Exchange, why refusal) (policy.Verdict, error) {
	p.store.overloads.Add(1)
	switch {
	case !p.blocks():
		p.counts.unseen.Add(1)
		return policy.Next, nil
	case why == greedy:
		x.ResponseEdits.SetID(exchange.RetryAfter, "Retry-After", "1")
		return policy.Done, p.greedy
	default:
		return policy.Done, p.busy
	}
}

// Explain says what the block does.
func (p *Policy) Explain() string {
	text := fmt.Sprintf("%s attacks at paranoia %d from a score of %d, in %d bytes of body at most (%s)", p.Mode, p.Paranoia, p.Threshold, p.Body,
		map[string]string{"refuse": "longer ones are refused", "pass": "the rest passes unseen"}[p.Beyond])
	if n := len(p.Excludes); n > 0 {
		text += fmt.Sprintf(", %d excludes", n)
	}
	return text
}

// Test says what the rules find in the head of x.
func (p *Policy) Test(x *exchange.Exchange) string {
	found, err := p.inspect(&reading{x: x})
	switch {
	case err != nil:
		return "fails: " + err.Error()
	case found == nil:
		return "finds nothing in the head; a body is looked at when it comes"
	case p.blocks():
		return "refuses: " + found.text(p.Threshold)
	default:
		return "would refuse, in mode block: " + found.text(p.Threshold)
	}
}

// check looks at the syntax of what is excluded.
func (e *ExcludeConfig) check() error {
	if len(e.Rules) == 0 {
		return errors.New("rules: name one at least")
	}
	var errs error
	for _, r := range e.Rules {
		if _, _, ok := idRange(r); !ok && !isTag(r) {
			errs = errors.Join(errs, fmt.Errorf("rules: %.60q is neither an id, nor a range of ids, nor a tag", r))
		}
	}
	for _, t := range e.Targets {
		if !isTarget(t) {
			errs = errors.Join(errs, fmt.Errorf(`targets: %.60q isn't a part of a request, such as "ARGS:q" or "REQUEST_HEADERS:User-Agent"`, t))
		}
	}
	return errs
}

func isTag(s string) bool {
	return s != "" && s[0] >= 'A' && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_/.:", r))
	}) < 0
}

// isTarget reports whether s is the name of a part of a request that rules look
// at, with or without the name of something in it.
func isTarget(s string) bool {
	collection, name, named := strings.Cut(s, ":")
	v, err := variables.Parse(collection)
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"'|`!&", r) }
	return err == nil && v.Name() == collection && (!named || v.CanBeSelected() && name != "" && strings.IndexFunc(name, bad) < 0)
}
