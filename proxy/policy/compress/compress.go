// Package compress is the policy that compresses responses on their way to the
// client, as the last thing that happens to them. What a service has compressed
// itself, or asked not to be touched, passes as it is. Requests are no matter of
// it, but for the entity tags in them that its own work has changed.
//
// It starts no goroutine: a body is encoded by who reads it.
//
//	compress.go   the block
//	encode.go     which responses, and what their heads say then
//	tags.go       entity tags, of responses and of requests
//	negotiate.go  Accept-Encoding
//	body.go       encoding while a body passes
//	stored.go     what the cache keeps: encoded once, thoroughly
//	decode.go     taking codings off, for the cache
//	coder.go      the encoders; brotli.go: one that the library has in parts
//	store.go      encoders that are used again, their bound, and counts
package compress

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
)

// Config is a compress block.
type Config struct {
	// Encodings to choose from, the preferred one first where a client takes several alike.
	Encodings []string `hcl:"encodings,attr" default:"[\"zstd\", \"br\", \"gzip\"]" enum:"zstd|br|gzip"`
	// Media types to compress: "application/json", "text/*" (but for text/event-stream, which has to be named), "application/*+json".
	Types []string `hcl:"types,attr" default:"[\"text/*\", \"application/json\", \"application/*+json\", \"application/ld+json\", \"application/x-ndjson\", \"application/javascript\", \"application/xml\", \"application/*+xml\", \"application/wasm\", \"application/yaml\", \"application/manifest+json\", \"application/vnd.ms-fontobject\", \"font/ttf\", \"font/otf\", \"image/svg+xml\", \"image/bmp\", \"image/x-icon\", \"image/vnd.microsoft.icon\"]"`
	// Length from which a response is compressed. One that doesn't say its length is, unless all of it is there at once and shorter.
	MinLength int64 `hcl:"min_length,attr" unit:"bytes" default:"1KiB" min:"0B" max:"1GiB"`
	// Compress responses to requests with cookies or credentials that another site's page has made, too. Such a page may learn secrets from their lengths (BREACH).
	CrossSite bool `hcl:"cross_site,attr" default:"false"`
}

// Policy compresses responses.
type Policy struct {
	order     []coding
	types     []mediaType
	min       int64
	crossSite bool
	store     *Store
	counts    *counts
	thorough  [codings]func(content []byte) ([]byte, bool) // encoded, for each
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Coder     = (*Policy)(nil)
	_ policy.Finisher  = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
)

// Kind describes the policy to the configuration. Its encoders are s's; with
// nil, it can only be checked.
func Kind(s *Store) policy.Kind {
	return policy.Kind{
		Name:   "compress",
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
		Join: func(route string, list []policy.Policy) (policy.Policy, error) {
			p := *list[len(list)-1].(*Policy) // the last block's, as with all that don't repeat
			if s != nil {
				p.store, p.counts = s, s.of(route)
			}
			for c := range codings {
				p.thorough[c] = func(content []byte) ([]byte, bool) { return p.encoded(c, content) }
			}
			return &p, nil
		},
	}
}

// New checks a block. What compresses is the policy that Join makes.
func New(c Config) (*Policy, error) {
	p := &Policy{min: c.MinLength, crossSite: c.CrossSite}
	var errs error
	if len(c.Encodings) == 0 {
		errs = errors.New("encodings: name one at least, or remove the block")
	}
	for _, name := range c.Encodings {
		i := slices.Index(names[:], name)
		switch {
		case i < 0:
			errs = errors.Join(errs, fmt.Errorf("encodings: %q isn't one of zstd, br, gzip", name))
		case slices.Contains(p.order, coding(i)):
			errs = errors.Join(errs, fmt.Errorf("encodings: %q is there twice", name))
		default:
			p.order = append(p.order, coding(i))
		}
	}
	if len(c.Types) == 0 {
		errs = errors.Join(errs, errors.New("types: name one at least, or remove the block"))
	}
	for _, text := range c.Types {
		t, err := parseType(text)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("types: %q %w", text, err))
		}
		p.types = append(p.types, t)
	}
	return p, errs
}

// mediaType is a pattern for media types, in lower case.
type mediaType struct {
	exact          string // "": it has a "*"
	prefix, suffix string // "text/", ""; "application/", "+json"
}

// parseType reads "type/subtype", "type/*" or "type/*+suffix".
func parseType(s string) (m mediaType, err error) {
	kind, sub, ok := strings.Cut(s, "/")
	rest, wild := strings.CutPrefix(sub, "*")
	switch {
	case s != strings.ToLower(s):
		return m, errors.New("has capitals; write it in lower case")
	case strings.ContainsAny(s, "; \t"):
		return m, errors.New("has parameters or spaces, which aren't looked at")
	case !ok || !token(kind) || sub == "" || strings.Contains(kind, "*"):
		return m, errors.New("isn't a media type, such as application/json or text/*")
	case strings.HasPrefix(s, grpc):
		return m, errors.New("can't be compressed here: gRPC compresses its messages itself")
	case wild && (rest == "" || rest[0] == '+' && token(rest[1:]) && !strings.Contains(rest, "*")):
		return mediaType{prefix: kind + "/", suffix: rest}, nil
	case !token(sub) || strings.Contains(sub, "*"):
		return m, errors.New("has a * that isn't all of the subtype, or all before a +")
	default:
		return mediaType{exact: s}, nil
	}
}

// token reports whether s is a token (RFC 9110, 5.6.2).
func token(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

const (
	grpc        = "application/grpc"
	eventStream = "text/event-stream"
)

// takes reports whether a Content-Type is one of those to compress.
func (p *Policy) takes(contentType string) bool {
	name, _, _ := strings.Cut(contentType, ";")
	name = strings.Trim(name, " \t")
	if len(name) >= len(grpc) && exchange.EqualFold(name[:len(grpc)], grpc) {
		return false // each message is compressed, or not, by itself
	}
	for i := range p.types {
		if p.types[i].matches(name) {
			return true
		}
	}
	return false
}

func (m *mediaType) matches(name string) bool {
	if m.exact != "" {
		return exchange.EqualFold(name, m.exact)
	}
	return len(name) > len(m.prefix)+len(m.suffix) &&
		exchange.EqualFold(name[:len(m.prefix)], m.prefix) &&
		exchange.EqualFold(name[len(name)-len(m.suffix):], m.suffix) &&
		!exchange.EqualFold(name, eventStream) // each keeps an encoder while nothing happens
}

// Explain says what it would compress.
func (p *Policy) Explain() string {
	var list []string
	for _, c := range p.order {
		list = append(list, names[c])
	}
	var types []string
	for _, t := range p.types {
		if t.exact != "" {
			types = append(types, t.exact)
		} else {
			types = append(types, t.prefix+"*"+t.suffix)
		}
	}
	more := ""
	if n := len(types); n > 4 {
		types, more = types[:3], fmt.Sprintf(" and %d more", n-3)
	}
	return fmt.Sprintf("%s for %s%s, from %d bytes", strings.Join(list, ", "), strings.Join(types, ", "), more, p.min)
}

// Test says what x would get.
func (p *Policy) Test(x *exchange.Exchange) string {
	c, why := p.choose(x)
	if c == identity {
		return "leaves responses as they are: " + why
	}
	return "compresses with " + names[c] + " what is of those types and long enough"
}
