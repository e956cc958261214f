package charge

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// The modes.
const (
	modeEvent   = "event"
	modeReserve = "reserve"
	modeLease   = "lease"
)

// What holds while a charge can't be made.
const (
	downDeny  = "deny"
	downAllow = "allow"
	downOwe   = "owe"
)

// Config is a charge block.
type Config struct {
	// What is counted, in the billing service's words.
	Meter string `hcl:"meter,attr" required:"true"`
	// How many units an answer costs: a number of at most six decimals, or a CEL expression over request, consumer, claims and response (status, headers, bytes_in, bytes_out). An answer whose price can't be told costs the estimate.
	Units string `hcl:"units,attr" default:"1"`
	// How many units are reserved before the answer is there: a number, or a CEL expression over request, consumer and claims. Needed in the modes reserve and lease when units depends on the response.
	Estimate string `hcl:"estimate,attr"`
	// The billing service: a service of the configuration, or the name of one in Consul.
	Service string `hcl:"service,attr"`
	// The billing service's scheme, host and port, in the place of service.
	URL string `hcl:"url,attr"`
	// Where it takes charges.
	Path string `hcl:"path,attr" default:"/charges"`
	// A token that it gets (Authorization: Bearer).
	Token secret.String `hcl:"token,attr"`
	// event: it is told after the answer. reserve: it is asked before, and told the outcome. lease: it gives out blocks of units, which are spent without asking.
	Mode string `hcl:"mode,attr" default:"reserve" enum:"event|reserve|lease"`
	// What holds while it doesn't answer, or while charges can't be written to the disk: deny: 503; allow: requests are served and never charged; owe: served, and charged later.
	WhenDown string `hcl:"when_down,attr" default:"deny" enum:"deny|allow|owe"`
	// With when_down allow and owe: how many units a consumer may have of the meter then; beyond them: 503.
	Credit string `hcl:"credit,attr"`
	// How long the billing service may take for its answer.
	Timeout time.Duration `hcl:"timeout,attr" default:"1s" min:"10ms" max:"60s"`
	// With mode lease: how many units are leased at a time, for each consumer.
	Lease string `hcl:"lease,attr" default:"100"`
	// With mode lease: how long a lease lasts at most. What is left of it then goes back.
	LeaseTime time.Duration `hcl:"lease_time,attr" default:"10m" min:"5s" max:"24h"`
	// Whether answers out of the cache cost as much as those of the service.
	CacheHits bool `hcl:"cache_hits,attr" default:"true"`
	// Which requests or answers cost, a CEL expression as units; all unless given.
	When string `hcl:"when,attr"`
	// Whether answers of status 400 and more cost, the gateway's own included.
	Errors bool `hcl:"errors,attr" default:"false"`
	// For how long requests of a consumer with the same Idempotency-Key, method, target, Range and content are charged once; "0s": each is charged. Prices that go by bytes are charged each time.
	Idempotency time.Duration `hcl:"idempotency,attr" default:"24h" min:"0s" max:"168h"`
	// How many further answers such a key is good for. The next one is charged anew: a key is for trying again, and no subscription.
	Repeats int `hcl:"repeats,attr" default:"10" min:"1" max:"1000"`
}

// Services are what the configuration has to know of.
func (c *Config) Services() map[string]string {
	if c.Service == "" {
		return nil
	}
	return map[string]string{"service": c.Service}
}

// price is a number, or an expression.
type price struct {
	fixed int64
	cel   *condition.Program // nil: fixed
}

func (p *price) responds() bool { return p.cel != nil && p.cel.ReadsResponse() }
func (p *price) sized() bool    { return p.cel != nil && p.cel.ReadsSizes() }

func (p *price) String() string {
	if p.cel != nil {
		return p.cel.String()
	}
	return Amount(p.fixed).String()
}

// Charge is one block, checked.
type Charge struct {
	Config
	units    price
	estimate *price // nil: units says it
	when     *condition.Program
	credit   int64
	lease    int64
	set      Settings
}

// New checks a block, whose expressions conditions compiles.
func New(c Config, conditions func() (*condition.Compiler, error)) (*Charge, error) {
	h := &Charge{Config: c, set: Settings{Service: c.Service, URL: strings.TrimSuffix(c.URL, "/"), Path: c.Path, Token: c.Token}}
	k := &checking{conditions: conditions}
	if c.Meter == "" || len(c.Meter) > 100 || strings.ContainsFunc(c.Meter, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		k.fail("meter", fmt.Errorf("%.100q must be a word of at most 100 ASCII characters", c.Meter))
	}
	h.units = k.price("units", c.Units)
	if c.Estimate != "" {
		e := k.price("estimate", c.Estimate)
		if h.estimate = &e; e.responds() {
			k.fail("estimate", errors.New("there is no response yet when it is looked at"))
		}
	}
	if h.units.responds() && c.Mode != modeEvent && h.estimate == nil {
		k.fail("units", fmt.Errorf("it depends on the response: with mode = %q, say what is asked for before that with estimate", c.Mode))
	}
	if c.When != "" {
		if compiler, err := conditions(); err != nil {
			k.fail("when", err)
		} else if h.when, err = compiler.Answered(c.When); err != nil {
			k.fail("when", err)
		}
	}
	k.where(&c)
	h.credit = k.amount("credit", c.Credit)
	if down := c.WhenDown != downDeny; down && h.credit == 0 {
		k.fail("credit", fmt.Errorf("when_down = %q needs a bound: how many units a consumer may have while the billing service is away", c.WhenDown))
	} else if !down && c.Credit != "" {
		k.fail("credit", errors.New("is without a meaning with when_down = \"deny\""))
	}
	if h.lease = k.amount("lease", c.Lease); c.Mode == modeLease && h.lease == 0 {
		k.fail("lease", errors.New("must be more than 0"))
	}
	if k.errs != nil {
		return nil, k.errs
	}
	return h, nil
}

// checking collects what is wrong with a block.
type checking struct {
	conditions func() (*condition.Compiler, error)
	errs       error
}

func (k *checking) fail(argument string, err error) {
	all := []error{err}
	if j, ok := err.(interface{ Unwrap() []error }); ok { // an expression's mistakes
		all = j.Unwrap()
	}
	for _, e := range all {
		k.errs = errors.Join(k.errs, fmt.Errorf("%s: %w", argument, e))
	}
}

func (k *checking) amount(argument, text string) int64 {
	if text == "" {
		return 0
	}
	a, err := ParseAmount(text)
	if err != nil {
		k.fail(argument, err)
	}
	return int64(a)
}

func (k *checking) price(argument, text string) (p price) {
	a, err := ParseAmount(text)
	if err == nil {
		p.fixed = int64(a)
		return p
	}
	if strings.Trim(text, "-+.0123456789eE") == "" { // meant to be a number
		k.fail(argument, err)
		return p
	}
	c, err := k.conditions()
	if err == nil {
		p.cel, err = c.Amount(text)
	}
	if err != nil {
		k.fail(argument, err)
	}
	return p
}

// where checks who is asked.
func (k *checking) where(c *Config) {
	switch {
	case c.Service == "" && c.URL == "":
		k.fail("service", errors.New("is missing: who takes the charges? Write service = \"NAME\", or url"))
	case c.Service != "" && c.URL != "":
		k.fail("url", errors.New("keep one of service and url"))
	case c.URL != "":
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
			k.fail("url", fmt.Errorf("%.200q isn't like https://billing.example.com: scheme, host and port alone; path says the rest", c.URL))
		}
	}
	if !strings.HasPrefix(c.Path, "/") || len(c.Path) > 1 && strings.HasSuffix(c.Path, "/") || strings.ContainsFunc(c.Path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '#' }) {
		k.fail("path", fmt.Errorf("%.200q must begin with a slash, and not end with one", c.Path))
	}
}

// maxCharges bounds those of one route.
const maxCharges = 4

// Means are what the policy works with beside its blocks. Without a ledger, blocks
// can only be checked.
type Means struct {
	Ledger     *Ledger
	Plan       *Plan
	Conditions func() (*condition.Compiler, error) // nil: one of its own
}

// Kind describes the policy to the configuration.
func Kind(m Means) policy.Kind {
	if m.Conditions == nil {
		m.Conditions = sync.OnceValues(condition.NewCompiler)
	}
	return policy.Kind{
		Name: "charge", Repeat: true, // one route may cost units of several meters
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config), m.Conditions) },
		Join:   func(route string, list []policy.Policy) (policy.Policy, error) { return join(m, route, list) },
	}
}
