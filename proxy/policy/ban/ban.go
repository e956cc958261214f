// Package ban is the policy that keeps an address out for a while when too many
// of its requests have ended in the given statuses. What it shows of itself is
// block's matter; how often it may ask, rate_limit's.
//
//	ban.go      the block, and the policy
//	strikes.go  counting statuses, in a table of a fixed size
//	store.go    who is banned, and until when
//	disk.go     bans over a restart
//	share.go    bans of a fleet
//	abuse.go    bans by connections that were closed for what they sent
//
// A ban holds on every route that has a ban block, whichever it came from.
// It starts no goroutine; who calls Store.Run and Store.Share owns theirs.
package ban

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/network"
)

// Config is a ban block.
type Config struct {
	// How many responses with one of the statuses ban an address (IPv6: a /64).
	After int `hcl:"after,attr" default:"20" min:"1" max:"1000000"`
	// In which time they come, from the first of them on.
	Window time.Duration `hcl:"window,attr" default:"1m" min:"1s" max:"24h"`
	// The statuses that count, the gateway's own and the service's.
	Statuses []int `hcl:"statuses,attr" default:"[401, 403, 404, 429]"`
	// How many requests that waf has refused ban an address, in the same time; 0: waf bans nobody.
	WAFAfter int `hcl:"waf_after,attr" default:"1" min:"0" max:"1000000"`
	// How many connections closed for what they sent ban an address, too, within the window: floods, rapid resets, malformed messages, heads that don't end; 0: none.
	Abuse int `hcl:"abuse,attr" default:"0" min:"0" max:"1000000"`
	// How long the first ban lasts; each further one twice as long.
	For time.Duration `hcl:"for,attr" default:"10m" min:"1s" max:"8760h"`
	// The longest that a ban becomes, and how long after its end the next one still counts as a further one.
	Longest time.Duration `hcl:"longest,attr" default:"24h" min:"1s" max:"8760h"`
	// Networks and addresses that are never banned here.
	Except []netip.Prefix `hcl:"except,attr"`
}

// Policy bans, and refuses who is banned.
type Policy struct {
	Config
	store    *Store
	route    string
	id       uint64
	wafID    uint64
	statuses [10]uint64 // bits of 0 to 639
	except   *network.Set
	banned   *exchange.Fault
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Finisher  = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
)

// Kind describes the policy to the configuration. Strikes and bans are in s.
func Kind(s *Store) policy.Kind {
	return policy.Kind{
		Name:   "ban",
		Config: func() any { return &Config{} },
		New:    func(cfg any) (policy.Policy, error) { return New(*cfg.(*Config)) },
		Join: func(route string, list []policy.Policy) (policy.Policy, error) {
			p := *list[len(list)-1].(*Policy) // the last block's, as with all that don't repeat
			s.open()
			p.store, p.route = s, route
			// A block that says something else counts anew.
			p.id = s.hash(fmt.Sprintf("%s\x00%d %s %v", route, p.After, p.Window, p.Statuses))
			p.wafID = s.hash(fmt.Sprintf("%s\x00waf %d %s", route, p.WAFAfter, p.Window))
			return &p, nil
		},
	}
}

// New checks a block. What bans is the policy that Join makes.
func New(c Config) (*Policy, error) {
	p := &Policy{Config: c, except: network.New(c.Except)}
	var errs error
	if len(c.Statuses) == 0 {
		errs = errors.New("statuses: name one at least")
	}
	for _, s := range c.Statuses {
		if s < 400 || s > 599 {
			errs = errors.Join(errs, fmt.Errorf("statuses: %d isn't the status of an error, 400 to 599", s))
			continue
		}
		p.statuses[s/64] |= 1 << (s % 64)
	}
	if c.Longest < c.For {
		errs = errors.Join(errs, fmt.Errorf("longest: %s is less than the first ban, %s", text(c.Longest), text(c.For)))
	}
	if errs != nil {
		return nil, errs
	}
	p.banned = &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.Forbidden, Err: errors.New("ban: the address is banned")}
	return p, nil
}

func (p *Policy) counts(status int) bool {
	return status >= 0 && status < 640 && p.statuses[status/64]&(1<<(status%64)) != 0
}

// refuses reports whether x comes from a banned address.
func (p *Policy) refuses(x *exchange.Exchange) bool {
	return !p.store.empty() && p.store.banned(clientOf(x.ClientIP), x.Start.Unix()) && !p.except.Has(x.ClientIP)
}

// Request refuses who is banned.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if p.refuses(x) {
		return policy.Done, p.banned
	}
	return policy.Next, nil
}

// Finish counts the response, and an attack that waf has refused: what it has
// only detected changes nothing for the client, so that rules can be tried. A
// refusal of its own doesn't count: a ban would never end.
func (p *Policy) Finish(x *exchange.Exchange) {
	attack := x.Blocked && p.WAFAfter > 0
	if !attack && !p.counts(x.Status) || x.Err == p.banned || !x.ClientIP.IsValid() || p.except.Has(x.ClientIP) {
		return
	}
	c := clientOf(x.ClientIP)
	if attack && p.store.strike(p.wafID, c, x.Start, p.WAFAfter, p.Window) || p.counts(x.Status) && p.store.strike(p.id, c, x.Start, p.After, p.Window) {
		p.store.ban(c, p.route, x.Start, p.For, p.Longest)
	}
}

// Explain says who is banned.
func (p *Policy) Explain() string {
	var list []string
	for _, s := range slices.Sorted(slices.Values(p.Statuses)) {
		list = append(list, fmt.Sprint(s))
	}
	told := fmt.Sprintf("%s after %d responses of %s in %s", text(p.For), p.After, strings.Join(list, ", "), text(p.Window))
	if p.WAFAfter > 0 {
		told += fmt.Sprintf(", or %d refused by waf", p.WAFAfter)
	}
	if p.Config.Abuse > 0 {
		told += fmt.Sprintf(", or %d connections closed for abuse", p.Config.Abuse)
	}
	return told
}

// text is a duration without the zeros at its end.
func text(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Test says whether the client is banned.
func (p *Policy) Test(x *exchange.Exchange) string {
	if p.refuses(x) {
		return "refuses: " + p.banned.Error()
	}
	return "admits"
}
