package charge

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
)

// Policy is all charges of a route.
type Policy struct {
	l      *Ledger
	route  string
	blocks []*block
	sized  bool // some price goes by how large messages are
}

// block is a Charge on its route.
type block struct {
	*Charge
	t     *Target
	terms terms
	count *Count
	keyed bool // the client's Idempotency-Key counts
}

var (
	_ policy.Requester = (*Policy)(nil)
	_ policy.Responder = (*Policy)(nil)
	_ policy.Finisher  = (*Policy)(nil)
	_ policy.Explainer = (*Policy)(nil)
	_ policy.Tester    = (*Policy)(nil)
)

func join(m Means, route string, list []policy.Policy) (policy.Policy, error) {
	if len(list) > maxCharges {
		return nil, fmt.Errorf("a route can have %d charges at most, and has %d", maxCharges, len(list))
	}
	if m.Ledger == nil { // to be checked alone
		m.Ledger = NewLedger(Deps{})
		m.Plan = m.Ledger.Plan()
	}
	if err := m.Ledger.open(); err != nil {
		return nil, err
	}
	p := &Policy{l: m.Ledger, route: strings.Clone(route)}
	meters := map[string]bool{}
	for _, one := range list {
		b := &block{Charge: one.(*Charge)}
		if meters[b.Meter] {
			return nil, fmt.Errorf("meter: %q has two charge blocks on this route: it would be charged twice", b.Meter)
		}
		meters[b.Meter] = true
		var err error
		if b.t, err = m.Plan.target(b.set); err != nil {
			return nil, err
		}
		b.count = m.Ledger.count(route, b.Meter)
		b.terms = terms{t: b.t, block: b.lease, lasts: b.LeaseTime, timeout: b.Timeout, route: p.route}
		b.keyed = b.Idempotency > 0 && !b.late() // what goes by bytes is charged for those that each answer had
		p.sized = p.sized || b.late()
		p.blocks = append(p.blocks, b)
	}
	return p, nil
}

// task is what the policy keeps of an exchange.
type task struct {
	items [maxCharges]item
	n     int
	err   *exchange.Fault // the fault that was being answered when it was decided
	body  *meter
	in    *counted // the request's body, if its length isn't known and a price goes by it
}

// item is one charge of an exchange.
type item struct {
	b         *block
	e         *entry
	estimate  int64
	fate      fate
	round     *round // with which the disk knows that
	again     bool   // another request with the same key pays
	elsewhere bool   // in another process
	why       string
	units     int64
	late      bool // what it costs is known at the end of the answer
}

// fate is what has become of a charge.
type fate uint8

const (
	undecided fate = iota
	charged
	uncharged
)

// Request sees to it that the request may be charged, whoever answers it.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if x.Copy || x.Preflight {
		return policy.Next, nil
	}
	t := &task{}
	x.Charge = t
	if p.sized && x.RequestBody != nil && x.RequestLength < 0 {
		t.in = &counted{Body: x.RequestBody}
		x.RequestBody = t.in
	}
	for _, b := range p.blocks {
		if f := p.begin(x, b, t); f != nil {
			for i := range t.n {
				p.l.drop(&t.items[i], "another charge of the request is refused")
				p.l.leave(&t.items[i])
			}
			x.Charge = nil
			return policy.Done, f
		}
	}
	return policy.Next, nil
}

// begin makes one charge of the request.
func (p *Policy) begin(x *exchange.Exchange, b *block, t *task) *exchange.Fault {
	if b.when != nil && !b.when.ReadsResponse() && !b.when.Eval(x) {
		return nil
	}
	estimate, err := b.guess(x)
	if err != nil {
		b.count.add(failed, 0)
		return exchange.NewFault(exchange.FromPolicy, exchange.Forbidden, "charge %s: the price can't be told: %w", b.Meter, err)
	}
	if estimate == 0 && !b.units.responds() {
		return nil // it is free
	}
	key, err := p.key(x, b, estimate)
	if err != nil {
		return asFault(err)
	}
	it := item{b: b, estimate: estimate}
	fault, free := p.l.enter(x, &it, key)
	if fault == nil && !free {
		t.items[t.n] = it
		t.n++
	}
	return fault
}

func asFault(err error) *exchange.Fault {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f
	}
	return &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: err}
}

// guess is what is asked for before the answer is there.
func (b *block) guess(x *exchange.Exchange) (int64, error) {
	p := b.estimate
	if p == nil {
		if p = &b.units; p.responds() {
			return 0, nil
		}
	}
	if p.cel == nil {
		return p.fixed, nil
	}
	return p.cel.Amount(x, condition.Sizes{})
}

// Response decides which charges are made, and what isn't known before the end of
// the answer is decided there. What is charged is on the disk before the client
// gets to know.
func (p *Policy) Response(x *exchange.Exchange) error {
	t, ok := x.Charge.(*task)
	if !ok {
		return nil
	}
	t.err = x.Err
	grpc := strings.HasPrefix(x.Response.Get(exchange.ContentType), "application/grpc")
	ends := x.ResponseBody != nil && x.ResponseLength != 0 && x.HasResponseBody()
	wait := false
	for i := range t.n {
		it := &t.items[i]
		if !it.b.costs(x) {
			p.l.drop(it, "the answer costs nothing")
			continue
		}
		if it.late = (it.b.late() || grpc) && (ends || x.Tunnel != nil); it.late {
			if t.body == nil && ends {
				t.body = &meter{Body: x.ResponseBody, p: p, x: x, t: t, left: x.ResponseLength}
				x.ResponseBody = t.body
			}
			continue
		}
		p.decide(x, t, it, 0)
		wait = true
	}
	if wait {
		return p.secure(x, t)
	}
	return nil
}

// late reports whether something about the charge isn't known before the end.
func (b *block) late() bool { return b.units.sized() || b.when != nil && b.when.ReadsSizes() }

// costs reports whether an answer costs, as far as its head tells.
func (b *block) costs(x *exchange.Exchange) bool {
	if !b.Errors && (x.Err != nil || x.Status >= 400 || !okay(x.Response.Get(exchange.GRPCStatus))) {
		return false
	}
	if !b.CacheHits && x.Cached.Hit() {
		return false
	}
	return b.when == nil || !b.when.ReadsResponse() || b.when.ReadsSizes() || b.when.Eval(x)
}

// okay reports whether a gRPC status is that of success.
func okay(status string) bool { return status == "" || status == "0" }

// decide charges an answer, of which the client gets out bytes of content.
func (p *Policy) decide(x *exchange.Exchange, t *task, it *item, out int64) {
	b := it.b
	sizes := condition.Sizes{In: max(0, x.RequestLength), Out: out}
	switch {
	case x.Status == 101: // which is over, or it wouldn't be decided
		sizes.In = x.BytesIn
	case t.in != nil:
		sizes.In = t.in.n.Load()
	}
	if b.when != nil && b.when.ReadsSizes() {
		if !b.when.Holds(x, sizes) {
			p.l.drop(it, "the answer costs nothing")
			return
		}
	}
	units := b.units.fixed
	if b.units.cel != nil {
		var err error
		if units, err = b.units.cel.Amount(x, sizes); err != nil {
			b.count.add(failed, 0)
			units = it.estimate
			p.l.priceless(b, err)
		}
	}
	if units == 0 {
		p.l.drop(it, "the answer costs nothing")
		return
	}
	it.fate, it.units = charged, units
	p.l.serve(it)
}

// secure waits until the disk knows of the charges that were decided.
func (p *Policy) secure(x *exchange.Exchange, t *task) error {
	var err error
	for i := range t.n {
		if it := &t.items[i]; it.fate == charged && err == nil {
			err = p.l.flush(it.round)
		}
	}
	if err == nil {
		return nil
	}
	for i := range t.n {
		it := &t.items[i]
		if it.fate != charged {
			continue
		}
		switch it.b.WhenDown {
		case downOwe: // it is in memory, and on the disk as soon as that can be written
		case downAllow:
			p.l.drop(it, "charges can't be written")
			if !p.l.give(it.b, it.e.Consumer, it.units) {
				return it.b.unavailable(err)
			}
		default:
			p.l.drop(it, "charges can't be written")
			return it.b.unavailable(err)
		}
	}
	return nil
}

// unavailable is the fault of a request that can't be charged now.
func (b *block) unavailable(err error) *exchange.Fault {
	b.count.add(denied, 0)
	return exchange.NewFault(exchange.FromPolicy, exchange.ChargeUnavailable, "charge %s: %w", b.Meter, err)
}

// end decides what is decided at the end of the answer, whose bytes have all been
// given to the client but the last.
func (p *Policy) end(x *exchange.Exchange, t *task, out int64) error {
	if !okay(x.ResponseTrailer.Get(exchange.GRPCStatus)) {
		for i := range t.n {
			if it := &t.items[i]; it.late && it.fate == undecided && !it.b.Errors {
				p.l.drop(it, "the answer costs nothing")
			}
		}
	}
	p.lateOnes(x, t, out)
	return p.secure(x, t)
}

func (p *Policy) lateOnes(x *exchange.Exchange, t *task, out int64) {
	for i := range t.n {
		if it := &t.items[i]; it.late && it.fate == undecided {
			p.decide(x, t, it, out)
		}
	}
}

// Finish knows how it all ended.
func (p *Policy) Finish(x *exchange.Exchange) {
	t, ok := x.Charge.(*task)
	if !ok {
		return
	}
	x.Charge = nil
	// An answer that the gateway or the service broke off isn't one. A client that has
	// left pays for what it had.
	broken := x.Err != nil && x.Err != t.err && (x.Err.Source != exchange.FromClient || errors.Is(x.Err, io.ErrUnexpectedEOF))
	if !broken && t.n > 0 && x.Status == 101 {
		p.lateOnes(x, t, x.BytesOut)
	}
	for i := range t.n {
		it := &t.items[i]
		switch {
		case broken:
			p.l.drop(it, "the answer broke off")
		case it.fate == undecided:
			p.l.drop(it, "there was no answer")
		}
		it.b.count.outcome(it)
		if it.fate == charged && !it.again {
			x.Charged += it.units
		}
		p.l.leave(it)
	}
}

// Explain says what costs how much.
func (p *Policy) Explain() string {
	var parts []string
	for _, b := range p.blocks {
		text := fmt.Sprintf("%s %s, %s at %s", b.units.String(), b.Meter, b.Mode, b.t.name)
		if b.estimate != nil {
			text += ", at first " + b.estimate.String()
		}
		if b.When != "" {
			text += ", when " + b.When
		}
		if !b.CacheHits {
			text += ", hits of the cache are free"
		}
		text += ", when down: " + b.WhenDown
		if b.WhenDown != downDeny {
			text += " up to " + Amount(b.credit).String()
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// Test says what x would be charged.
func (p *Policy) Test(x *exchange.Exchange) string {
	who := "nobody"
	if x.Consumer != nil {
		who = x.Consumer.Name
	}
	var parts []string
	for _, b := range p.blocks {
		units, err := b.guess(x)
		switch {
		case b.when != nil && !b.when.ReadsResponse() && !b.when.Eval(x):
			parts = append(parts, fmt.Sprintf("no %s: when doesn't hold", b.Meter))
		case err != nil:
			parts = append(parts, fmt.Sprintf("refuses: the price in %s can't be told: %v", b.Meter, err))
		case b.units.responds():
			parts = append(parts, fmt.Sprintf("%s %s for %s at first, and what %s says at last", Amount(units), b.Meter, who, b.units.String()))
		default:
			parts = append(parts, fmt.Sprintf("%s %s for %s", Amount(units), b.Meter, who))
		}
	}
	return strings.Join(parts, "; ")
}

// Services are the services, and URLs, that the charges are told to.
func (p *Policy) Services() []string {
	var list []string
	for _, b := range p.blocks {
		list = append(list, b.set.Where())
	}
	return list
}
