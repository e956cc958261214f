package upstream

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/balance"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// settings are a service block, checked and with its defaults. They are
// immutable; a reload gives a pool new ones.
type settings struct {
	cfg       *Config
	algorithm balance.Algorithm
	hashBy    hashBy
	route     *connPlan // how connections are made
	fleet     *connPlan // and to instances that want a certificate of the fleet
	limit     int       // requests in flight at one instance
	limits    LimitsConfig
	timeouts  TimeoutsConfig
	outlier   OutlierConfig
	retry     RetryConfig
	retryOn   retrySet
	adaptive  *adaptive // nil: not wanted
}

// retrySet says what is tried again.
type retrySet struct {
	connect, reset, timeout bool
	status                  [600]bool
}

// hashBy says what requests are told apart by with balance = "hash".
type hashBy struct {
	kind string // header, cookie, query or client_ip; "": nothing
	name string
	id   exchange.ID
}

// compile checks cfg. was are the settings it replaces, or nil: what didn't
// change (where round robin stands, TLS sessions) is taken over.
func compile(cfg *Config, p *Pool, was *settings) (*settings, error) {
	s := &settings{cfg: cfg, limits: limitsOf(cfg), timeouts: timeoutsOf(cfg), outlier: outlierOf(cfg), retry: retryOf(cfg)}
	var errs []error
	var err error
	if s.hashBy, err = parseHashBy(cfg); err != nil {
		errs = append(errs, err)
	}
	if was != nil && was.balance() == s.balance() {
		s.algorithm = was.algorithm
	} else if s.algorithm, err = balance.New(s.balance(), balance.Deps{InFlight: p.inFlight.Load}); err != nil {
		errs = append(errs, err)
	}
	if s.route, err = newConnPlan(cfg, s.timeouts); err != nil {
		errs = append(errs, err)
	} else if s.fleet, err = p.g.fleetPlan(cfg, s.timeouts); err != nil {
		errs = append(errs, err)
	} else {
		s.keepPlans(was)
		s.route.prepare(&p.g.d)
		s.fleet.prepare(&p.g.d)
	}
	if err := s.retryOn.parse(s.retry.On); err != nil {
		errs = append(errs, err)
	}
	if h := cfg.HealthCheck; h != nil && h.Type == "grpc" && s.route != nil && !s.route.multiplexed() {
		errs = append(errs, errors.New(`health_check: type "grpc" needs protocol h2 or h2c`))
	}
	if c := cfg.Sticky; c != nil && !token(c.Cookie) {
		errs = append(errs, fmt.Errorf("sticky: cookie: %q isn't a cookie's name", c.Cookie))
	}
	if s.limits.Adaptive {
		if was != nil && was.adaptive != nil {
			s.adaptive = was.adaptive
		} else {
			s.adaptive = newAdaptive(cfg.Name)
		}
	}
	s.limit = s.limits.Requests
	if s.route != nil && !s.route.multiplexed() {
		// One request at a time on a connection: the lower of the two bounds both.
		s.limit = min(s.limit, s.limits.Connections)
	}
	return s, errors.Join(errs...)
}

// keepPlans takes over the plans of the settings before that say the same.
func (s *settings) keepPlans(was *settings) {
	if was != nil && was.fleet.equal(s.fleet) {
		s.fleet = was.fleet
	}
	if s.cfg.Identity == identityRequired {
		s.route = s.fleet
	} else if was != nil && was.route.equal(s.route) {
		s.route = was.route
	}
}

// way is how connections to an instance are made.
func (s *settings) way(to *connections) *connPlan {
	if to.fleet.Load() {
		return s.fleet
	}
	return s.route
}

func (s *settings) balance() string {
	if s.cfg.Balance == "" {
		return "ewma"
	}
	return s.cfg.Balance
}

func parseHashBy(cfg *Config) (hashBy, error) {
	by := cfg.HashBy
	if cfg.Balance != "hash" {
		if by != "" {
			return hashBy{}, errors.New(`hash_by: only with balance = "hash"`)
		}
		return hashBy{}, nil
	}
	kind, name, _ := strings.Cut(by, ":")
	switch kind {
	case "client_ip", "consumer":
		if name == "" {
			return hashBy{kind: kind}, nil
		}
	case "header", "cookie", "query":
		if token(name) {
			return hashBy{kind: kind, name: name, id: exchange.Lookup(name)}, nil
		}
	}
	return hashBy{}, fmt.Errorf("hash_by: %q isn't header:NAME, cookie:NAME, query:NAME, client_ip or consumer", by)
}

// token reports whether s is a token of RFC 9110, 5.6.2.
func token(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

func (r *retrySet) parse(on []string) error {
	for _, what := range on {
		switch what {
		case "connect":
			r.connect = true
		case "reset":
			r.reset = true
		case "timeout":
			r.timeout = true
		case "429":
			r.status[429] = true
		case "500":
			r.status[500] = true
		case "502":
			r.status[502] = true
		case "503":
			r.status[503] = true
		case "504":
			r.status[504] = true
		default:
			return fmt.Errorf("retry: on: %q isn't known", what)
		}
	}
	return nil
}

func (r *retrySet) has(status int) bool {
	return status > 0 && status < len(r.status) && r.status[status]
}

// The defaults of blocks that aren't there, as the tags in config.go say them.

func limitsOf(cfg *Config) LimitsConfig {
	l := LimitsConfig{Connections: 1024, Requests: 1024, Queue: 128}
	if cfg.Limits != nil {
		l = *cfg.Limits
	}
	l.Connections, l.Requests = max(l.Connections, 1), max(l.Requests, 1)
	return l
}

func timeoutsOf(cfg *Config) TimeoutsConfig {
	t := TimeoutsConfig{Connect: 2 * time.Second, FirstByte: 30 * time.Second, Idle: time.Minute}
	if cfg.Timeouts != nil {
		t = *cfg.Timeouts
	}
	if t.Connect <= 0 {
		t.Connect = 2 * time.Second
	}
	return t
}

func outlierOf(cfg *Config) OutlierConfig {
	if cfg.Outlier != nil {
		return *cfg.Outlier
	}
	return OutlierConfig{Errors: 5, Window: 10 * time.Second, Eject: 30 * time.Second, MaxEjected: 0.5}
}

func retryOf(cfg *Config) RetryConfig {
	if cfg.Retry != nil {
		return *cfg.Retry
	}
	return RetryConfig{Attempts: 2, On: []string{"connect", "reset", "502", "503", "504"}, Budget: 0.2}
}
