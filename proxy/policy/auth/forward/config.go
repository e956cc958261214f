package forward

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

// Config is an auth "forward" block.
type Config struct {
	// The auth service, an http or https URL. It is asked with GET and never gets a body.
	URL string `hcl:"url,attr" required:"true"`
	// The request's header fields that it gets. Its answer depends on no others.
	Headers []string `hcl:"headers,attr" default:"[\"Authorization\", \"Cookie\", \"Accept\", \"X-Requested-With\"]"`
	// Fields of an answer that admits which the service behind gets. What clients send under these names is dropped.
	Copy []string `hcl:"copy,attr"`
	// The field of an answer that admits with the consumer's name.
	Consumer string `hcl:"consumer,attr"`
	// How long an answer is remembered. Unless given, each request asks.
	Cache time.Duration `hcl:"cache,attr" min:"0s" max:"1h"`
	// What the answer depends on, beside the fields in headers. Leaving something out has one answer serve more requests: ["host"] for a service that looks at nothing but credentials.
	Key []string `hcl:"key,attr" default:"[\"method\", \"scheme\", \"host\", \"path\", \"query\", \"client_ip\"]" enum:"method|scheme|host|path|query|client_ip"`
	// How long an answer may take.
	Timeout time.Duration `hcl:"timeout,attr" default:"2s" min:"10ms" max:"60s"`
	// Root certificates for the auth service, in PEM; the system's unless given.
	CAFile string `hcl:"ca_file,attr"`
	// Send Authorization on to the service behind, where it is one of headers. Cookies go on in any case: those of the service are among them.
	Forward bool `hcl:"forward,attr" default:"false"`
}

// maxBody bounds what is read of an answer. Nothing of it is used.
const maxBody = 64 << 10

// Deps are what a method works with. Without services it can only be checked.
type Deps struct {
	Consumers *consumer.Directory
	Services  *remote.Plan
	Cache     *Cache
}

// Kind describes the method to the configuration.
func Kind(d Deps) policy.Kind {
	return auth.Kind("forward", func() any { return &Config{} }, func(cfg any) (auth.Method, error) {
		return New(*cfg.(*Config), d)
	})
}

// field is a header field that is sent, or copied.
type field struct {
	id   exchange.ID
	name string
}

// New makes the method of a block.
func New(c Config, d Deps) (*Method, error) {
	m := &Method{url: c.URL, keep: c.Cache, forward: c.Forward, consumers: d.Consumers, cache: d.Cache, faults: newFaults()}
	cas, err := remote.ReadCAs(c.CAFile)
	errs := errors.Join(err, m.setFields(c))
	if err := remote.CheckPlain(c.URL); err != nil {
		errs = errors.Join(errs, fmt.Errorf("url: %w", err))
	}
	for _, k := range c.Key {
		bit := slices.Index([]string{"method", "scheme", "host", "path", "query", "client_ip"}, k)
		m.key |= 1 << max(bit, 0)
	}
	if errs != nil {
		return nil, errs
	}
	m.to, _ = url.Parse(c.URL) // checked
	// Answers to another block's question aren't this one's.
	m.seed = sha256.Sum256(fmt.Appendf(nil, "%q", []any{c.URL, m.send, m.copy, m.consumer, m.key, cas}))
	if d.Services != nil {
		m.service = d.Services.Service(remote.Settings{URL: c.URL, CAs: cas, Timeout: c.Timeout, MaxBody: maxBody})
	}
	return m, nil
}

func (m *Method) setFields(c Config) (errs error) {
	read := func(argument, name string) field {
		f := field{exchange.Lookup(name), http.CanonicalHeaderKey(name)}
		if err := usable(f); err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %q %w", argument, name, err))
		}
		return f
	}
	for _, h := range c.Headers {
		m.send = append(m.send, read("headers", h))
	}
	for _, h := range c.Copy {
		f := read("copy", h)
		if f.id == exchange.Cookie {
			errs = errors.Join(errs, errors.New(`copy: "Cookie" has more in it than who is calling`))
		}
		m.copy = append(m.copy, f)
	}
	if c.Consumer != "" {
		m.consumer = read("consumer", c.Consumer).name
	}
	return errs
}

// usable refuses the fields that have a meaning of their own, and those that the
// gateway itself sets on each request.
func usable(f field) error {
	lower := strings.ToLower(f.name)
	switch {
	case !header.Name(f.name):
		return errors.New("isn't the name of a header field")
	case strings.ContainsAny(f.name, "_."):
		return errors.New("never arrives: fields with _ or . in their names are dropped, for services take them for others")
	case f.id.HopByHop(), f.id == exchange.Host, f.id == exchange.ContentLength, f.id == exchange.Expect, f.id == exchange.Range:
		return errors.New("is about the request itself")
	case strings.HasPrefix(lower, "x-forwarded-"), f.id == exchange.Forwarded, f.id == exchange.Via, f.id == exchange.XRealIP, f.id == exchange.XRequestID:
		return errors.New("is the gateway's own to set")
	default:
		return nil
	}
}
