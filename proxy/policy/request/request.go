// Package request is the policy that edits the header fields of requests on
// their way to the backend. It can't change method, path or body.
package request

import (
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
)

// Config is a request block.
type Config struct {
	// Fields to set: whatever the client sent under that name, in any spelling, is replaced. {placeholders} are expanded; a value that comes out empty isn't sent. Host is what the backend sees as the host.
	Set map[string]string `hcl:"set,attr"`
	// Fields to add beside those of the same name.
	Add map[string]string `hcl:"add,attr"`
	// Names of fields to remove.
	Remove []string `hcl:"remove,attr"`
}

// Policy edits requests.
type Policy struct{ edits *header.Edits }

var (
	_ policy.Requester   = (*Policy)(nil)
	_ policy.Explainer   = (*Policy)(nil)
	_ policy.ParamReader = (*Policy)(nil)
)

// New makes the policy of a request block.
func New(c Config) (*Policy, error) {
	edits, err := header.Compile(header.Config{Set: c.Set, Add: c.Add, Remove: c.Remove}, true)
	if err != nil {
		return nil, err
	}
	return &Policy{edits}, nil
}

// Kind describes the policy to the configuration.
func Kind() policy.Kind {
	return policy.Kind{
		Name:   "request",
		Repeat: true, // the edits of a bundle and of a route add up
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
	}
}

// Request edits what goes to the backend.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	p.edits.Hide(&x.Request)
	p.edits.Apply(x, &x.RequestEdits)
	if host := p.edits.Host(x); host != "" && authority(host) {
		x.Out.Host = host
	}
	return policy.Next, nil
}

// Marks returns the fields that tell the backend who is calling: see
// header.Edits.
func (p *Policy) Marks(all bool) []string { return p.edits.Marks(all) }

// authority reports whether s, made of a template, can still be a host and
// port; what a client put in must not become anything else.
func authority(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9':
		case c == '-' || c == '.' || c == '_' || c == ':' || c == '[' || c == ']':
		default:
			return false
		}
	}
	return len(s) <= 261
}

// Explain says which fields it edits.
func (p *Policy) Explain() string { return p.edits.String() }

// Params returns the path parameters that the values read.
func (p *Policy) Params() []string { return p.edits.Params() }
