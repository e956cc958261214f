package upstream

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Send gets x a response's head from one of the instances. Without a fault,
// x.Lease holds the connection and must be released when the exchange is over.
func (p *Pool) Send(x *exchange.Exchange) *exchange.Fault {
	s := p.settings.Load()
	begin := p.g.now()
	if x.Deadline.IsZero() && s.timeouts.Total > 0 {
		x.Deadline = p.g.at(begin).Add(s.timeouts.Total)
	}
	x.ServiceName = p.name
	shard := &p.counts.shard[shardOf(x)]
	shard.requests.Add(1)
	var place int64
	whole := false
	if s.adaptive != nil {
		var f *exchange.Fault
		if place, f = s.adaptive.enter(x); f != nil {
			return f
		}
		_, whole = x.Taken()
		whole = whole || x.RequestBody == nil
	}

	l := p.newLease(x, s)
	if s.adaptive != nil {
		l.sit(s.adaptive, place, whole)
	}
	f := l.first(x, begin)
	if f == nil {
		f = l.tries(x, begin)
	}
	l.body.seat.stand()
	if f != nil {
		if x.Tries > 0 {
			x.Upstream = time.Duration(p.g.now() - begin)
		}
		if f.Source != exchange.FromClient {
			shard.failures.Add(1)
		}
		l.hangUp(false)
		l.end(x)
		return f
	}
	x.Lease = l
	return nil
}

// first gets a slot at an instance, waiting for one if it must.
func (l *lease) first(x *exchange.Exchange, now int64) *exchange.Fault {
	v := l.pool.view.Load()
	if v == nil || len(v.all.list) == 0 {
		l.pool.counts.noInstance.Add(1)
		return exchange.NewFault(exchange.FromUpstream, exchange.NoInstance, "service %s has no instance that may be used", l.pool.name)
	}
	if l.s.hashBy.kind != "" && !l.keyed {
		l.key = l.pool.g.rand() // nothing to go by: anywhere
	}
	if l.pick(x, v, now) != nil {
		return nil
	}
	_, f := l.await(x, l.s)
	return f
}

// tries sends x until a response's head has come that goes to the client, or
// until nothing more is to be tried.
func (l *lease) tries(x *exchange.Exchange, begin int64) *exchange.Fault {
	p, fresh := l.pool, false
	for now := begin; ; now = p.g.now() {
		in := l.in
		x.Tries++
		x.InstanceAddr = in.addr
		in.requests.Add(1)
		p.counts.shard[shardOf(x)].tries.Add(1)

		id, start := x.BeginTry()
		c, reused, f := p.g.connect(in, l.s, x, fresh)
		if f != nil {
			x.EndTry(id, start, false, f)
			if !l.unreached(x, f, now, reused) {
				return f
			}
			fresh = false
			continue
		}
		l.conn = c
		if !reused {
			now = p.g.now() // the connection's making isn't the instance's latency
		}
		progress, f := c.RoundTrip(x)
		if f != nil && !reused && refusedUs(f, c) {
			f, progress = in.notConnected(c.plan, f), exchange.NotSent
		}
		x.EndTry(id, start, reused, f)
		if f == nil {
			end := p.g.now()
			if l.headCame(x, now, end) {
				continue
			}
			x.Upstream = time.Duration(end - begin)
			return nil
		}
		f = outOfTime(x, f)
		l.hangUp(false) // nobody reads the request's body any more after this
		if reused && l.wasStale(x, f, progress, c) || l.isPatient(x, f, progress) {
			fresh = true
			continue
		}
		if !l.broke(x, f, progress, now) {
			return f
		}
		fresh = false
	}
}

// wasStale reports whether f is only the end of a connection that the instance
// closed between two requests: then one more try is free, and the instance
// isn't to blame (RFC 9112, 9.3.1 and 9.5).
func (l *lease) wasStale(x *exchange.Exchange, f *exchange.Fault, progress exchange.Progress, c *conn) bool {
	if l.stale || f.Kind != exchange.BackendReset || progress == exchange.Answered {
		return false
	}
	if c.many != nil && progress != exchange.NotSent && c.Alive() {
		return false // the instance reset this stream alone
	}
	if !l.repeatable(x, progress) {
		return false
	}
	l.stale = true
	return true
}

// isPatient reports whether f is what a restart of the instance looks like to those
// whose connections it hadn't accepted yet, and the service is waited for: then the
// same instance is tried again, if nothing of an answer has come.
func (l *lease) isPatient(x *exchange.Exchange, f *exchange.Fault, progress exchange.Progress) bool {
	const most = 2 // one for each way a restart can break a request off
	if l.s.cfg.Patience == 0 || l.patient == most || f.Kind != exchange.BackendReset || progress == exchange.Answered || !l.repeatable(x, progress) {
		return false
	}
	l.patient++
	return true
}

// repeatable reports whether the request can be sent once more, and makes its
// body start again.
func (l *lease) repeatable(x *exchange.Exchange, progress exchange.Progress) bool {
	if progress != exchange.NotSent && !x.Idempotent() {
		return false
	}
	return l.body.inner == nil || l.body.rewind()
}

// unreached handles a connection that couldn't be made, and reports whether
// another instance is to be tried.
func (l *lease) unreached(x *exchange.Exchange, f *exchange.Fault, now int64, counted bool) bool {
	p := l.pool
	end := p.g.now()
	switch f.Kind {
	case exchange.ConnectFailed:
		if !counted {
			l.in.failed(&l.s.outlier, time.Duration(end-now), 0, end, "connections fail")
		}
		return l.s.retryOn.connect && l.move(x, end)
	case exchange.Overloaded: // another one may have room
		return l.move(x, end)
	default:
		return false
	}
}

// broke handles a round trip that failed, and reports whether another instance
// is to be tried. Nothing has been forwarded to the client yet.
func (l *lease) broke(x *exchange.Exchange, f *exchange.Fault, progress exchange.Progress, now int64) bool {
	end := l.pool.g.now()
	elapsed, waited := l.waited(now, end)
	if f.Source != exchange.FromUpstream {
		// A client that had enough of waiting says something of the instance.
		if d, known := l.in.stats.Latency(end); waited && known && elapsed > d {
			l.in.stats.Observe(elapsed, end)
		}
		return false
	}
	on, why := false, ""
	switch f.Kind {
	case exchange.ConnectFailed:
		on, why = l.s.retryOn.connect, "connections fail"
	case exchange.BackendReset:
		on, why = l.s.retryOn.reset, "connections break"
	case exchange.BackendTimeout:
		on, why = l.s.retryOn.timeout, "answers don't come in time"
	case exchange.DeadlineExceeded:
		why = "answers don't come in time"
	case exchange.BackendMalformed:
		why = "answers are malformed"
	default:
		return false
	}
	l.in.failed(&l.s.outlier, elapsed, 0, end, why)
	return on && l.repeatable(x, progress) && l.move(x, end)
}

// waited is how long the instance had the whole request without answering; ok
// is false when it didn't have it all. The time that a client takes to send its
// body isn't the instance's.
func (l *lease) waited(from, to int64) (d time.Duration, ok bool) {
	if l.body.inner == nil {
		return time.Duration(to - from), true
	}
	ended := l.body.endedAt.Load()
	return time.Duration(to - max(from, ended)), ended != 0
}

// headCame handles a response's head, and reports whether it is dropped for
// another try.
func (l *lease) headCame(x *exchange.Exchange, now, end int64) bool {
	rtt, waited := l.waited(now, end)
	switch status := x.Status; {
	case status < 500 && status != 429, status == 501, status == 505:
		l.in.answered(rtt, waited, end)
		if waited && x.Upgrade == "" {
			l.body.seat.observe(rtt)
		}
	case status == 502, status == 503, status == 504:
		l.in.failed(&l.s.outlier, rtt, retryAfter(x), end, "answers are 502, 503 or 504")
	default:
		l.in.slow(rtt, retryAfter(x), end)
	}
	if l.s.retryOn.has(x.Status) && x.Idempotent() && l.body.settled() {
		if was := l.another(x, end); was != nil {
			l.discard(x)
			l.pool.free(was)
			l.body.rewind()
			return true
		}
	}
	if l.body.inner != nil {
		l.body.forget()
	}
	l.response = x.ResponseBody
	l.stick(x)
	return false
}

// another takes a slot at an instance that wasn't tried yet, if one has room
// and the budget has a try left. It returns the instance left behind, whose
// slot is the caller's to free, or nil.
func (l *lease) another(x *exchange.Exchange, now int64) *instance {
	p, was := l.pool, l.in
	if l.retries >= l.s.retry.Attempts || (!x.Deadline.IsZero() && !p.g.at(now).Before(x.Deadline)) {
		return nil
	}
	l.tried = append(l.tried, &was.stats)
	if l.pick(x, p.view.Load(), now) == nil {
		return nil
	}
	if !p.budget.spend(now, p.counts.requests(), l.s.retry.Budget) {
		p.counts.overBudget.Add(1)
		l.vacate()
		l.in = was
		return nil
	}
	l.retries++
	return was
}

// move is another, for a try that failed.
func (l *lease) move(x *exchange.Exchange, now int64) bool {
	was := l.another(x, now)
	if was == nil {
		return false
	}
	l.pool.free(was)
	return true
}

// discard drops a response whose request is tried elsewhere.
func (l *lease) discard(x *exchange.Exchange) {
	body := x.ResponseBody
	done := body == nil
	for read := 0; !done && read < 4<<10; {
		// What came with the head; more isn't worth waiting for.
		b, end := body.Next()
		if done = end; len(b) == 0 {
			break
		}
		read += len(b)
	}
	if body != nil {
		// A connection with a rest on it isn't reusable; that is all there is to say.
		_ = body.Close()
	}
	l.hangUp(done)
	x.Status, x.ResponseBody, x.ResponseLength, x.Tunnel = 0, nil, 0, nil
	x.Response.Reset(nil)
	x.ResponseTrailer.Reset(nil)
}

// retryAfter is what a Retry-After in seconds asks for (RFC 9110, 10.2.3); a
// date isn't looked at.
func retryAfter(x *exchange.Exchange) time.Duration {
	v := x.Response.Get(exchange.RetryAfter)
	if v == "" || len(v) > 6 {
		return 0
	}
	n := 0
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return 0
		}
		n = n*10 + int(v[i]-'0')
	}
	return time.Duration(n) * time.Second
}

// stick lets the client's next requests go to the same instance.
func (l *lease) stick(x *exchange.Exchange) {
	c := l.s.cfg.Sticky
	if c == nil || cookie(x, c.Cookie) == l.in.name {
		return
	}
	value := c.Cookie + "=" + l.in.name + "; Path=/; HttpOnly; SameSite=Lax"
	if x.Target.Scheme == "https" {
		value += "; Secure"
	}
	x.ResponseEdits.Add("Set-Cookie", value)
}
