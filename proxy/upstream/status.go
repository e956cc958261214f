package upstream

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// PoolStatus is what a pool looks like now.
type PoolStatus struct {
	Service   string           `json:"service"`
	Protocol  string           `json:"protocol"`
	Balance   string           `json:"balance"`
	Instances []InstanceStatus `json:"instances"`
	Healthy   int              `json:"healthy"` // instances
	Panic     bool             `json:"panic"`   // too few are: health is ignored
	Updated   time.Time        `json:"updated"` // when the source last reported; zero: never
	Problem   string           `json:"problem,omitempty"`
	Queue     int              `json:"queue"`              // requests that wait for room
	Adaptive  *AdaptiveStatus  `json:"adaptive,omitempty"` // nil: there is no adaptive limit

	Requests       uint64 `json:"requests"`
	Tries          uint64 `json:"tries"`
	Failures       uint64 `json:"failures"` // requests that got no response, or a broken one
	Overloaded     uint64 `json:"overloaded"`
	NoInstance     uint64 `json:"no_instance"`
	OverBudget     uint64 `json:"over_budget"`     // further tries that the budget forbade
	RetriesAllowed int    `json:"retries_allowed"` // in the last ten seconds
	RetriesMade    int    `json:"retries_made"`
}

// InstanceStatus is what an instance looks like now.
type InstanceStatus struct {
	Address         string        `json:"address"`
	ID              string        `json:"id"`
	Node            string        `json:"node"`
	Local           bool          `json:"local"`
	Health          string        `json:"health"`           // from the source
	Check           string        `json:"check"`            // of the active check; "": there is none
	CheckError      string        `json:"check_error"`      // of the last one
	Eligible        bool          `json:"eligible"`         // it gets requests, panic aside
	Why             string        `json:"why,omitempty"`    // it gets none
	EjectedUntil    time.Time     `json:"ejected_until"`    // zero: it isn't
	EjectedWhy      string        `json:"ejected_why"`      // the last time
	Ejections       int           `json:"ejections"`        // so far
	Weight          int           `json:"weight"`           // from the source
	EffectiveWeight float64       `json:"effective_weight"` // in slow start, less
	Pending         int           `json:"pending"`
	Latency         time.Duration `json:"latency"`             // peak EWMA; 0: not known
	Identity        string        `json:"identity,omitempty"`  // the service whose certificate it must have; "": it is spoken to without
	TLSError        string        `json:"tls_error,omitempty"` // why the last try at a TLS connection failed
	Requests        uint64        `json:"requests"`
	Failures        uint64        `json:"failures"`
	Open            int           `json:"open"` // connections
	Idle            int           `json:"idle"`
}

// Status returns what the pools look like, by name.
func (g *Group) Status() []PoolStatus {
	list := g.list()
	slices.SortFunc(list, func(a, b *Pool) int { return strings.Compare(a.name, b.name) })
	out := make([]PoolStatus, len(list))
	for i, p := range list {
		out[i] = p.Status()
	}
	return out
}

// Status returns what the pool looks like.
func (p *Pool) Status() PoolStatus {
	now := p.g.now()
	st := PoolStatus{
		Service: p.name, Queue: int(p.queue.n.Load()), Requests: p.counts.requests(),
		Overloaded: p.counts.overloaded.Load(), NoInstance: p.counts.noInstance.Load(), OverBudget: p.counts.overBudget.Load(),
	}
	for i := range p.counts.shard {
		st.Tries += p.counts.shard[i].tries.Load()
		st.Failures += p.counts.shard[i].failures.Load()
	}
	s := p.settings.Load()
	if s == nil {
		return st // planned, not committed
	}
	st.Protocol, st.Balance = s.route.protocol, s.balance()
	st.RetriesAllowed, st.RetriesMade = p.budget.left(now, st.Requests, s.retry.Budget)
	if v := p.view.Load(); v != nil {
		st.Healthy, st.Panic = v.healthy, v.panic
	}
	if s.adaptive != nil {
		st.Adaptive = s.adaptive.status()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	st.Updated, st.Problem = p.updated, p.problem
	st.Instances = make([]InstanceStatus, len(p.order))
	for i, in := range p.order {
		st.Instances[i] = in.status(now, s)
	}
	return st
}

// status is what in looks like. Pool.mu is held.
func (in *instance) status(now int64, s *settings) InstanceStatus {
	st := InstanceStatus{
		Address: in.addr, ID: in.info.ID, Node: in.info.Node, Local: in.info.Local, Health: in.info.Health.String(),
		EjectedWhy: in.ejectedWhy, Ejections: in.ejections,
		Weight: in.info.Weight, EffectiveWeight: in.stats.Weight(now), Pending: in.stats.Pending(),
		Requests: in.requests.Load(), Failures: in.failures.Load(),
		Open: int(in.conns.open.Load()), Idle: in.conns.count(),
	}
	st.Identity = s.way(&in.conns).service
	if text := in.refusal.Load(); text != nil {
		st.TLSError = *text
	} else if err := s.way(&in.conns).lacks; err != nil {
		st.TLSError = err.Error()
	}
	checked := s.cfg.HealthCheck != nil
	st.Eligible, st.Why = in.eligible(checked)
	if checked {
		st.Check, st.CheckError = in.check.state.String(), in.check.err
	}
	if in.ejectedUntil != 0 {
		st.EjectedUntil = in.pool.g.at(in.ejectedUntil)
	}
	st.Latency, _ = in.stats.Latency(now)
	return st
}

// Explanation says what would become of an exchange in a pool.
type Explanation struct {
	Service  string          `json:"service"`
	Balance  string          `json:"balance"`
	Key      string          `json:"key,omitempty"`    // what it is told apart by, for hash
	Sticky   string          `json:"sticky,omitempty"` // the instance that its cookie names
	Panic    bool            `json:"panic"`
	Local    bool            `json:"local"`              // instances on this host come first
	Adaptive string          `json:"adaptive,omitempty"` // what the adaptive limit would say
	Choices  []ExplainChoice `json:"choices"`
}

// ExplainChoice is an instance in an explanation.
type ExplainChoice struct {
	Address  string `json:"address"`
	Eligible bool   `json:"eligible"`
	Why      string `json:"why"`
}

// Explain says which instances might get x and why the others wouldn't, without
// sending anything.
func (p *Pool) Explain(x *exchange.Exchange) Explanation {
	s, v := p.settings.Load(), p.view.Load()
	if s == nil || v == nil {
		return Explanation{Service: p.name}
	}
	e := Explanation{Service: p.name, Balance: s.balance(), Panic: v.panic, Local: len(v.local.list) > 0}
	if s.hashBy.kind != "" {
		e.Key = "none: any instance"
		if _, ok := s.hashBy.key(x); ok {
			e.Key = s.cfg.HashBy
		}
	}
	if s.adaptive != nil {
		e.Adaptive = s.adaptive.explain(x)
	}
	if v.byName != nil {
		if in := v.byName[cookie(x, v.settings.cfg.Sticky.Cookie)]; in != nil {
			e.Sticky = in.addr
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, in := range p.order {
		c := ExplainChoice{Address: in.addr}
		c.Eligible, c.Why = in.eligible(s.cfg.HealthCheck != nil)
		switch {
		case v.panic && !c.Eligible && in.info.Health != discovery.Maintenance:
			c.Eligible, c.Why = true, fmt.Sprintf("%s, which is ignored: only %d of %d are healthy", c.Why, v.healthy, v.total)
		case c.Eligible && in.stats.Full():
			c.Why = "full"
		case c.Eligible && e.Local && !in.info.Local:
			c.Why = "when those on this host are full or fail"
		}
		e.Choices = append(e.Choices, c)
	}
	return e
}
