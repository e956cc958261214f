// Package response is the policy that edits the header fields of responses on
// their way to the client, those that the gateway makes itself included. It
// can't change status or body.
package response

import (
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
)

// Config is a response block.
type Config struct {
	// Fields to set, in place of those of the same name. {placeholders} are expanded; a value that comes out empty isn't sent.
	Set map[string]string `hcl:"set,attr"`
	// Fields to add beside those of the same name.
	Add map[string]string `hcl:"add,attr"`
	// Names of fields to remove.
	Remove []string `hcl:"remove,attr"`
}

// Policy edits responses.
type Policy struct{ edits *header.Edits }

var (
	_ policy.Responder   = (*Policy)(nil)
	_ policy.Explainer   = (*Policy)(nil)
	_ policy.ParamReader = (*Policy)(nil)
)

// New makes the policy of a response block.
func New(c Config) (*Policy, error) {
	edits, err := header.Compile(header.Config{Set: c.Set, Add: c.Add, Remove: c.Remove}, false)
	if err != nil {
		return nil, err
	}
	return &Policy{edits}, nil
}

// Kind describes the policy to the configuration.
func Kind() policy.Kind {
	return policy.Kind{
		Name:   "response",
		Repeat: true, // the edits of a bundle and of a route add up
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
	}
}

// Response edits what goes to the client.
func (p *Policy) Response(x *exchange.Exchange) error {
	p.edits.Apply(x, &x.ResponseEdits)
	return nil
}

// Explain says which fields it edits.
func (p *Policy) Explain() string { return p.edits.String() }

// Params returns the path parameters that the values read.
func (p *Policy) Params() []string { return p.edits.Params() }
