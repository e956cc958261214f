// Package cors is the policy that lets pages of other origins read a route's
// responses, as the Fetch standard has it (https://fetch.spec.whatwg.org, 3.3):
// it answers preflights and puts the Access-Control fields on responses, in the
// place of the service's own. It keeps nobody out: only browsers heed it. It
// starts no goroutine.
package cors

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
)

// Config is a cors block.
type Config struct {
	// Origins whose pages may read responses: "https://app.example.com", "https://*.example.com" (any name below), "null", or "*": all, never with credentials.
	Origins []string `hcl:"origins,attr" required:"true"`
	// Let pages send cookies, client certificates and HTTP authentication, and read what comes back.
	Credentials bool `hcl:"credentials,attr" default:"false"`
	// Methods that pages may use, of those that the route takes; "*": all of them.
	Methods []string `hcl:"methods,attr" default:"[\"GET\", \"HEAD\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\"]"`
	// Request header fields that pages may set; "*": any.
	Headers []string `hcl:"headers,attr" default:"[\"Accept\", \"Accept-Language\", \"Authorization\", \"Content-Language\", \"Content-Type\", \"X-API-Key\"]"`
	// Response header fields that pages may read beside those that they always may.
	Expose []string `hcl:"expose,attr"`
	// How long a browser may remember the answer to a preflight; browsers have bounds of their own.
	MaxAge time.Duration `hcl:"max_age,attr" default:"10m" min:"0s" max:"24h"`
}

// Policy answers preflights and marks responses.
type Policy struct {
	every       bool // any origin, without credentials
	origins     map[string]bool
	wild        []wildcard
	credentials bool
	anyMethod   bool
	methods     []string
	anyHeader   bool
	headers     []string
	text        string // of the origins, for people

	allowMethods, allowHeaders, expose, maxAge string

	badOrigin, badMethod, badHeader *exchange.Fault
}

// wildcard is an origin with a "*" in the place of the first labels.
type wildcard struct{ prefix, suffix string }

var (
	_ policy.Requester      = (*Policy)(nil)
	_ policy.EveryResponder = (*Policy)(nil)
	_ policy.Preflighter    = (*Policy)(nil)
	_ policy.Explainer      = (*Policy)(nil)
	_ policy.Tester         = (*Policy)(nil)
)

// Kind describes the policy to the configuration.
func Kind() policy.Kind {
	return policy.Kind{
		Name:   "cors",
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
	}
}

// New makes the policy of a block.
func New(c Config) (*Policy, error) {
	p := &Policy{origins: map[string]bool{}, credentials: c.Credentials, text: strings.Join(c.Origins, ", ")}
	errs := errors.Join(p.setOrigins(c), p.setMethods(c), p.setHeaders(c))
	if errs != nil {
		return nil, errs
	}
	if c.MaxAge > 0 {
		p.maxAge = strconv.FormatInt(int64(c.MaxAge/time.Second), 10)
	} else {
		p.maxAge = "0"
	}
	refuse := func(why string) *exchange.Fault { // made once: refusing many must not cost
		return &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.Forbidden, Err: errors.New("cors: " + why)}
	}
	p.badOrigin = refuse("the preflight's origin isn't allowed")
	p.badMethod = refuse("the method that the preflight asks for isn't allowed")
	p.badHeader = refuse("a header field that the preflight asks for isn't allowed")
	return p, nil
}

func (p *Policy) setOrigins(c Config) (errs error) {
	if len(c.Origins) == 0 {
		errs = errors.New("origins: name one at least")
	}
	for _, o := range c.Origins {
		switch {
		case o == "*" && c.Credentials, o == "null" && c.Credentials: // Fetch 3.3.5; any page can be of the origin null
			errs = errors.Join(errs, fmt.Errorf("origins: %q never goes with credentials: any page could read what the user may", o))
		case o == "*":
			p.every = true
		case o == "null":
			p.origins[o] = true
		default:
			w, err := parseOrigin(o)
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("origins: %q %w", o, err))
			} else if w.suffix == "" {
				p.origins[w.prefix] = true
			} else {
				p.wild = append(p.wild, w)
			}
		}
	}
	return errs
}

// parseOrigin checks an origin as browsers write it (HTML, 7.1.1: ASCII
// serialization); without a suffix it has no "*".
func parseOrigin(o string) (w wildcard, err error) {
	scheme, host, ok := strings.Cut(o, "://")
	switch {
	case !ok || scheme == "" || host == "":
		return w, errors.New("isn't an origin, such as https://app.example.com")
	case o != strings.ToLower(o):
		return w, errors.New("has capitals, which no browser writes")
	case strings.ContainsAny(host, "/?#@ \t,") || strings.HasSuffix(host, "."):
		return w, errors.New("isn't an origin: that is a scheme, a host and, unless it is the usual one, a port")
	case scheme == "https" && strings.HasSuffix(host, ":443"), scheme == "http" && strings.HasSuffix(host, ":80"):
		return w, errors.New("has the usual port, which browsers leave out")
	case !header.Name(scheme) || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return w, errors.New("isn't ASCII; write the host in its xn-- form")
	}
	rest, wild := strings.CutPrefix(host, "*.")
	if strings.Contains(rest, "*") {
		return w, errors.New("has a * that isn't the whole first label")
	}
	if !wild {
		return wildcard{prefix: o}, nil
	}
	if rest == "" || rest[0] == '.' || rest[0] == ':' {
		return w, errors.New("has nothing behind the *")
	}
	return wildcard{scheme + "://", "." + rest}, nil
}

func (w *wildcard) takes(origin string) bool {
	if len(origin) <= len(w.prefix)+len(w.suffix) || !strings.HasPrefix(origin, w.prefix) || !strings.HasSuffix(origin, w.suffix) {
		return false
	}
	for _, c := range []byte(origin[len(w.prefix) : len(origin)-len(w.suffix)]) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

func (p *Policy) setMethods(c Config) (errs error) {
	for _, m := range c.Methods {
		switch upper := strings.ToUpper(m); {
		case m == "*":
			p.anyMethod = true
		case !header.Name(m):
			errs = errors.Join(errs, fmt.Errorf("methods: %q isn't a method", m))
		case forbidden(upper):
			errs = errors.Join(errs, fmt.Errorf("methods: no page can use %s", upper))
		case m != upper && exchange.KnownMethod([]byte(upper)) == upper && slices.Contains([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"}, upper):
			errs = errors.Join(errs, fmt.Errorf("methods: %q: case matters, write %q", m, upper))
		default:
			p.methods = append(p.methods, m)
		}
	}
	p.allowMethods = strings.Join(p.methods, ", ")
	return errs
}

// forbidden are the methods that Fetch, 2.2.1 forbids.
func forbidden(method string) bool {
	return method == "CONNECT" || method == "TRACE" || method == "TRACK"
}

func (p *Policy) setHeaders(c Config) (errs error) {
	for _, h := range c.Headers {
		switch {
		case h == "*":
			p.anyHeader = true
		case !header.Name(h):
			errs = errors.Join(errs, fmt.Errorf("headers: %q isn't the name of a header field", h))
		default:
			p.headers = append(p.headers, h)
		}
	}
	for _, h := range c.Expose {
		if !header.Name(h) || h == "*" && c.Credentials { // with credentials Fetch takes "*" for a name
			errs = errors.Join(errs, fmt.Errorf("expose: %q isn't the name of a header field", h))
		}
	}
	p.allowHeaders, p.expose = strings.Join(p.headers, ", "), strings.Join(c.Expose, ", ")
	return errs
}

// allows reports whether the origin of x may read. Two Origin fields are none
// that a browser sends.
func (p *Policy) allows(x *exchange.Exchange) bool {
	if x.Request.Count(exchange.Origin) != 1 {
		return false
	}
	origin := x.Request.Get(exchange.Origin)
	if origin == "" {
		return false
	}
	if p.every || p.origins[origin] {
		return true
	}
	for i := range p.wild {
		if p.wild[i].takes(origin) {
			return true
		}
	}
	return false
}

// judge says why a preflight is refused; nil: it isn't. A preflight names one
// method (Fetch, 4.8); header fields may stand in a list.
func (p *Policy) judge(x *exchange.Exchange) *exchange.Fault {
	if !p.allows(x) {
		return p.badOrigin
	}
	methods := 0
	for i := range x.Request.Len() {
		if x.Request.ID(i) != exchange.Other {
			continue
		}
		switch name, value := x.Request.Field(i); {
		case exchange.EqualFold(name, requestMethod):
			if methods++; methods > 1 || !p.takesMethod(value) {
				return p.badMethod
			}
		case exchange.EqualFold(name, requestHeaders):
			ok := true
			exchange.EachToken(value, func(h string) bool {
				ok = p.takesHeader(h)
				return ok
			})
			if !ok {
				return p.badHeader
			}
		}
	}
	if methods != 1 {
		return p.badMethod
	}
	return nil
}

func (p *Policy) takesMethod(m string) bool {
	return p.anyMethod && header.Name(m) && !forbidden(strings.ToUpper(m)) || slices.Contains(p.methods, m)
}

func (p *Policy) takesHeader(h string) bool {
	if p.anyHeader {
		return header.Name(h)
	}
	return slices.ContainsFunc(p.headers, func(o string) bool { return exchange.EqualFold(o, h) })
}

// Preflight reports whether the request that x asks leave for may be sent.
func (p *Policy) Preflight(x *exchange.Exchange) bool { return p.judge(x) == nil }

// Request answers preflights.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if !x.Preflight {
		return policy.Next, nil
	}
	if f := p.judge(x); f != nil {
		return policy.Done, f
	}
	x.Reply(204, "", nil)
	return policy.Done, nil
}

// Explain says whose pages may read.
func (p *Policy) Explain() string {
	if p.credentials {
		return p.text + ", with credentials"
	}
	return p.text
}

// Test says what becomes of the request's origin.
func (p *Policy) Test(x *exchange.Exchange) string {
	switch {
	case x.Preflight:
		if f := p.judge(x); f != nil {
			return "refuses: " + f.Error()
		}
		return "answers the preflight with 204"
	case !x.Request.Has(exchange.Origin):
		return "the request has no Origin"
	case p.allows(x):
		return "the origin may read the response"
	default:
		return "the origin may not read the response"
	}
}
