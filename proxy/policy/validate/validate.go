// Package validate is the policy that lets pass what an API's description has:
// requests whose path, method, parameters and body are as an OpenAPI document
// says. It can also watch the responses. Who is calling, and whether they may,
// is for auth and authorize; nothing of a document's security is looked at.
//
//	validate.go  the block, and the policy
//	judge.go     a request against the document
//	watch.go     responses, which are copied while they pass
//	store.go     what routes have counted, and what is logged
//
// A body is read into memory before anything is forwarded, and goes on as it
// came, byte by byte. It starts no goroutine.
package validate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/openapi"
)

// Config is a validate block.
type Config struct {
	// The OpenAPI document, 3.1 or 3.0, in YAML or JSON; files that it refers to are in its folder or below. Read again when one of them changes.
	OpenAPI string `hcl:"openapi,attr" required:"true" unit:"file"`
	// What stands before the document's paths in those that clients send; "/" for nothing. Unless given it is strip_prefix, and then the path of one of the document's servers.
	BasePath string `hcl:"base_path,attr"`
	// What becomes of a request that isn't as the document has it: it is refused, or reported in the log and in metrics and let pass.
	Mode string `hcl:"mode,attr" default:"block" enum:"block|report"`
	// Refuse query parameters that the document doesn't have.
	Strict bool `hcl:"strict,attr" default:"false"`
	// Check formats, such as date-time, uuid and email.
	Formats bool `hcl:"formats,attr" default:"true"`
	// Largest body that is checked, in memory. A larger request is refused, a larger response not looked at.
	Body int64 `hcl:"body,attr" unit:"bytes" default:"1MiB" min:"1B" max:"32MiB"`
	// Media types of the document whose bodies pass although it has a schema for them that can't be checked, such as "application/xml".
	Unchecked []string `hcl:"unchecked,attr"`
	// Whether responses are looked at: those that aren't as the document has them are reported, and never held up.
	Responses string `hcl:"responses,attr" default:"off" enum:"off|report"`
	// Which share of them.
	Sample float64 `hcl:"sample,attr" default:"1" min:"0" max:"1"`
}

// Policy checks requests.
type Policy struct {
	Config
	api    *openapi.API
	strip  string // what the route takes off the path
	store  *Store
	counts *counts
	checks *sync.Pool // of *openapi.Check
}

// watched is a Policy that looks at responses, too.
type watched struct{ *Policy }

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
	_ policy.Stripped  = (*Policy)(nil)
	_ policy.Responder = (*watched)(nil)
)

// Kind describes the policy to the configuration. files are documents that have
// been read; what is counted is in s.
func Kind(files *openapi.Files, s *Store) policy.Kind {
	return policy.Kind{
		Name:   "validate",
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config), files) },
		Join: func(route string, list []policy.Policy) (policy.Policy, error) {
			p := *list[len(list)-1].(*Policy) // the last block's, as with all that don't repeat
			p.store, p.counts = s, s.of(route)
			if p.Responses == "report" && p.Sample > 0 {
				return &watched{&p}, nil
			}
			return &p, nil
		},
	}
}

// New makes the policy of a block. What counts is the policy that Join makes.
func New(c Config, files *openapi.Files) (*Policy, error) {
	api, err := openapi.Read(files, c.OpenAPI)
	if err != nil {
		return nil, fmt.Errorf("openapi: %w", err)
	}
	p := &Policy{Config: c, api: api, checks: &sync.Pool{New: func() any { return openapi.NewCheck() }}}
	return p, errors.Join(p.setBase(), p.setUnchecked())
}

func (p *Policy) setBase() error {
	if p.BasePath == "" {
		if err := p.api.CheckBases(); err != nil {
			return fmt.Errorf("openapi: %w", err)
		}
		return nil
	}
	if p.BasePath[0] != '/' || strings.ContainsAny(p.BasePath, "?#{}%") || strings.Contains(p.BasePath, "//") {
		return fmt.Errorf("base_path: %q isn't the beginning of a path, such as /api/v1", p.BasePath)
	}
	return nil
}

// setUnchecked sees that each body that can't be checked is one that the
// operator knows of.
func (p *Policy) setUnchecked() (errs error) {
	var types []string
	for t, why := range p.api.Unreadable {
		if types = append(types, t); !slices.Contains(p.Unchecked, t) {
			errs = errors.Join(errs, fmt.Errorf("openapi: %w; with unchecked = [%q] they pass as they are", why, t))
		}
	}
	sort.Strings(types)
	for _, t := range p.Unchecked {
		if !slices.Contains(types, t) {
			errs = errors.Join(errs, fmt.Errorf("unchecked: the document has no bodies of the type %q that couldn't be checked", t))
		}
	}
	return errs
}

// Strip says what the route takes off the path before it is forwarded: the
// document's paths are those of the service.
func (p *Policy) Strip(prefix string) { p.strip = prefix }

func (p *Policy) check() *openapi.Check {
	c := p.checks.Get().(*openapi.Check)
	c.Strict, c.Formats = p.Strict, p.Formats
	return c
}

func (p *Policy) done(c *openapi.Check) {
	if c.Reset() {
		p.checks.Put(c)
	}
}

// Request lets pass what is as the document has it.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	c := p.check()
	defer p.done(c)
	j := judge{p: p, x: x, c: c}
	f, err := j.request()
	switch {
	case err != nil:
		return policy.Done, err
	case f == nil:
		return policy.Next, nil
	case p.Mode == "report":
		p.counts.reported.Add(1)
		p.store.report(&p.counts.requests, "a request isn't as the document has it", x, j.place(), f.Err.Error())
		return policy.Next, nil
	}
	p.counts.refused.Add(1)
	j.fields(f)
	return policy.Done, f
}

// Response watches a response of the service.
func (w *watched) Response(x *exchange.Exchange) error {
	if x.Err != nil || x.Tries == 0 || x.Status == 101 || w.Sample < 1 && rand.Float64() >= w.Sample {
		return nil
	}
	c := w.check()
	defer w.done(c)
	w.watch(x, c)
	return nil
}

// Explain says what is checked by what.
func (p *Policy) Explain() string {
	base := p.BasePath
	if base == "" {
		var list []string
		for _, b := range p.api.Bases {
			list = append(list, p.strip+b+"/")
		}
		base = strings.Join(list, " or ")
	}
	text := fmt.Sprintf("%d operations of %s below %s", p.api.Operations, filepath.Base(p.OpenAPI), base)
	if p.Mode == "report" {
		text += ", reported only"
	}
	if p.Responses == "report" {
		text += "; responses reported"
	}
	return text
}

// Test says what would become of x, as far as its head tells.
func (p *Policy) Test(x *exchange.Exchange) string {
	c := p.check()
	defer p.done(c)
	j := judge{p: p, x: x, c: c}
	f := j.head()
	switch {
	case f == nil && j.op == nil:
		return "admits the preflight"
	case f == nil:
		return fmt.Sprintf("admits it as %s %s, if its body fits", j.op.Method, j.item.Path)
	case p.Mode == "report":
		return "reports: " + f.Error()
	default:
		return "refuses: " + f.Error()
	}
}
