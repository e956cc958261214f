package cache

import (
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// duty is what a request that is sent on asks of the response.
type duty uint8

const (
	fetches     duty = iota // its answer may be stored
	invalidates             // it may change what is stored
	compares                // HEAD: it may show that what is stored doesn't hold
)

// task is what the policy keeps of an exchange that is sent on.
type task struct {
	duty        duty
	look        *look
	flight      *flight // nil: invalidates
	stale       *entry  // nil: there is none
	validating  bool    // the request asks whether stale still holds
	conditional bool    // the client asked so, of an answer that it has
	why         string  // it is sent on, for Cache-Status
}

// look is a request on its way to an answer.
type look struct {
	p           *Policy
	x           *exchange.Exchange
	control     rules.Control
	uri         string
	hash        uint64 // of uri
	own, public string
	authorized  bool     // the client sent Authorization
	cookies     bool     // the client sent cookies
	edited      []string // fields that policies before this one set for the service
	entry       *entry   // what the response is (exchange.Stored); or, with fill, is going to be
	fill        *fill
	now         time.Time
	found       entry
}

// Request answers from memory what it can, waits for what another fetches, and
// sends on the rest.
func (p *Policy) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if x.Preflight {
		return policy.Next, nil
	}
	l, why := p.look(x)
	if l == nil {
		p.counts.passed.Add(1)
		x.Cached = exchange.CachePassed
		x.ResponseEdits.Add(cacheStatus, why)
		if !rules.Understands(x.Method) {
			x.Cache = &task{duty: invalidates}
		}
		return policy.Next, nil
	}
	return l.answer()
}

// The reasons for which requests are sent on without a look (RFC 9211, 2.2).
const (
	byMethod  = statusName + "; fwd=method"
	byRequest = statusName + "; fwd=request"
	byRule    = statusName + "; fwd=bypass"
)

// look is nil for requests that have nothing to do with the cache; why says so.
func (p *Policy) look(x *exchange.Exchange) (l *look, why string) {
	if !rules.Understands(x.Method) {
		return nil, byMethod
	}
	h := &x.Request
	// A body of GET has no meaning, but some services go by it: it is in no key.
	if x.Upgrade != "" || x.RequestLength != 0 || x.RequestBody != nil || h.Has(exchange.IfMatch) {
		return nil, byRequest
	}
	if _, ok := h.Find("If-Unmodified-Since"); ok { // conditions that only the origin can tell
		return nil, byRequest
	}
	if !p.applies(x) {
		return nil, byRule
	}
	c := rules.RequestControl(h)
	if !p.ClientControl {
		c = rules.NoControl()
	}
	if c.Has(rules.NoStore) {
		return nil, byRequest
	}
	now := x.Start
	if now.IsZero() {
		now = time.Now()
	}
	l = &look{p: p, x: x, control: c, now: now, authorized: h.Has(exchange.Authorization), cookies: h.Has(exchange.Cookie)}
	var ok bool
	if l.own, l.public, ok = p.bases(x); !ok {
		return nil, byRule
	}
	l.uri = p.uri(x, x.Target.Path, x.Target.Query, x.Target.HasQuery)
	l.hash = p.store.hash(l.uri)
	return l, ""
}

// find is the stored answer for the request (RFC 9111, 4): of several, the one that
// was made last. It stays what it is until find finds another.
func (l *look) find() *entry {
	s := l.p.store
	for range 2 {
		it, at := l.best(s.varies(l.hash))
		switch {
		case it == nil:
			return nil
		case at.self == 0 || it.has(hasBody):
			s.show(&l.found, it)
			return &l.found
		}
		var e entry
		if s.load(&e, it, at) {
			l.found.release()
			l.found = e
			return &l.found
		}
	}
	return nil
}

func (l *look) best(varies [][]string) (found *item, at place) {
	s := l.p.store
	for i := range max(1, len(varies)) {
		v := ""
		if i < len(varies) {
			v = l.values(varies[i])
		}
		it, p := s.item(l.hash, l.key(l.own, v), l.now)
		if it == nil && l.own != l.public {
			it, p = s.item(l.hash, l.key(l.public, v), l.now)
		}
		if it != nil && it.has(guessed) && l.cookies && !l.p.Public {
			it = nil // it doesn't say whether it is for this one, too
		}
		if it != nil && (found == nil || it.date > found.date) {
			found, at = it, p
		}
	}
	return found, at
}

// values and key are views into the exchange.
func (l *look) values(varies []string) string {
	if len(varies) == 0 {
		return ""
	}
	var room [256]byte
	return l.x.Keep(values(room[:0], l.x, varies))
}

func (l *look) key(base, v string) string {
	var room [1024]byte
	return l.x.Keep(entryKey(room[:0], l.uri, base, v))
}

// mostLooks is how often a request waits for others, which then have fetched
// something else.
const mostLooks = 3

// mostAhead is how far from the beginning the part may begin for which a whole answer
// is fetched: its client waits for what comes before.
const mostAhead = 8 << 20

func (l *look) answer() (policy.Verdict, error) {
	for range mostLooks {
		e := l.find()
		if e != nil && l.use(e) {
			return policy.Done, nil
		}
		if l.control.Has(rules.OnlyIfCached) { // 5.2.1.7
			l.x.Reply(504, "", nil)
			l.x.ResponseEdits.Add(cacheStatus, statusName+`; detail="only-if-cached"`)
			return policy.Done, nil
		}
		f, started := l.board(e)
		if started {
			return policy.Next, nil
		}
		if f == nil {
			continue
		}
		done, again, err := l.await(f, e)
		if done || err != nil {
			return policy.Done, err
		}
		if !again {
			break
		}
	}
	l.lead(l.start(false), l.find())
	return policy.Next, nil
}

// use answers with a stored answer if that may be used as it is.
func (l *look) use(e *entry) bool {
	d := rules.Decide(&e.Shelf, e.age(l.now), &l.control)
	if d == rules.Validate || e.file != nil && !e.file.prime() {
		return false
	}
	if d == rules.Background {
		l.refresh(e)
	}
	c := l.p.counts
	c.hits.Add(1)
	c.age.Add(int64(e.age(l.now) / time.Second))
	l.x.Cached = exchange.CacheHit
	if d != rules.Fresh {
		c.stale.Add(1)
		l.x.Cached = exchange.CacheStale
	}
	l.serve(e, nil, "; hit")
	return true
}

// board finds the flight that brings the answer, or is one.
func (l *look) board(e *entry) (f *flight, started bool) {
	x := l.x
	switch {
	case x.Method == "HEAD":
		l.p.counts.misses.Add(1)
		x.Cached = exchange.CacheMiss
		l.depart(l.start(false), e, compares)
		return nil, true
	case x.Request.Has(exchange.Range) && (!rules.Near(&x.Request, min(l.p.MaxObject, mostAhead)) || l.p.store.marked(l.hash, l.rangeMark(), l.now)):
		// Only whole answers are stored, and this one isn't, or is too large, or may be.
		l.p.counts.passed.Add(1)
		x.Cached = exchange.CachePassed
		x.ResponseEdits.Add(cacheStatus, statusName+l.why(e))
		return nil, true
	case l.p.store.marked(l.hash, l.mark(), l.now):
		l.lead(l.start(false), e)
		return nil, true
	}
	f = l.start(true)
	f, started = l.p.store.join(f, func(o *flight) bool { return string(values(nil, x, o.varies)) == o.values })
	if !started {
		return f, false
	}
	// Between the look and here, another may have fetched it. What is stored is
	// there before its flight is gone.
	var was *item
	if e != nil {
		was = e.item
	}
	if now := l.find(); now != nil && now.item != was {
		if e = now; rules.Decide(&e.Shelf, e.age(l.now), &l.control) == rules.Fresh {
			l.p.store.end(f)
			return nil, false // look again
		}
	}
	l.lead(f, e)
	return f, true
}

// start makes a flight; one that isn't open has nobody wait for it, and starts at
// once. What it keeps is its own.
func (l *look) start(open bool) *flight {
	f := &flight{uri: strings.Clone(l.uri), hash: l.hash, base: strings.Clone(l.own), open: open, sent: time.Now()}
	if varies := l.p.store.varies(l.hash); len(varies) > 0 {
		f.varies = varies[0]
		f.values = string(values(nil, l.x, f.varies))
	}
	if !open {
		l.p.store.join(f, nil)
	}
	return f
}

func (l *look) mark() string { return l.key(l.own, "\x00pass") }

// rangeMark marks URIs of which parts aren't asked for as a whole.
func (l *look) rangeMark() string { return l.key(l.own, "\x00parts") }

// lead sends the request on, to store what comes.
func (l *look) lead(f *flight, e *entry) {
	l.p.counts.misses.Add(1)
	l.x.Cached = exchange.CacheMiss
	l.depart(f, e, fetches)
}

func (l *look) depart(f *flight, e *entry, d duty) {
	x := l.x
	t := &task{duty: d, look: l, flight: f, stale: e, why: l.why(e)}
	x.Cache = t
	if l.edited == nil {
		l.edited = edited(&x.RequestEdits)
	}
	l.p.strip(x)
	if l.p.coder != nil { // one answer for all, of which each coding is made here
		x.RequestEdits.SetID(exchange.AcceptEncoding, "Accept-Encoding", "identity")
	}
	if d != fetches {
		return
	}
	t.conditional = x.Request.Has(exchange.IfNoneMatch) || x.Request.Has(exchange.IfModifiedSince)
	if t.conditional { // it is answered from what comes; what is stored has to be whole
		x.RequestEdits.Remove("If-None-Match")
		x.RequestEdits.Remove("If-Modified-Since")
	}
	x.RequestEdits.Remove("If-Range")
	x.RequestEdits.Remove("Range") // the part that the client wants is cut out of the whole
	if e == nil {
		return
	}
	if e.ETag != "" { // 4.3.1
		x.RequestEdits.Set("If-None-Match", e.ETag)
		t.validating = true
	}
	if e.LastModified != "" {
		x.RequestEdits.Set("If-Modified-Since", e.LastModified)
		t.validating = true
	}
}

// why is the reason for which a request is sent on, beside e (RFC 9211, 2.2).
func (l *look) why(e *entry) string {
	noControl := rules.NoControl()
	switch {
	case e == nil && l.p.store.knows(l.hash):
		return "; fwd=vary-miss"
	case e == nil:
		return "; fwd=uri-miss"
	case rules.Decide(&e.Shelf, e.age(l.now), &noControl) == rules.Fresh:
		return "; fwd=request"
	default:
		return "; fwd=stale"
	}
}

// await waits for what another request fetches. again: that was another variant,
// and there may be an answer now.
func (l *look) await(f *flight, e *entry) (done, again bool, err error) {
	x := l.x
	wait := l.p.Wait
	if !x.Deadline.IsZero() {
		wait = min(wait, time.Until(x.Deadline))
	}
	f.waiting.Add(1)
	if !l.waits(f, wait) {
		if x.Front != nil && x.Front.Gone(x) {
			return false, false, exchange.NewFault(exchange.FromClient, exchange.ClientGone, "left while another request fetched the same")
		}
		l.p.store.setMark(l.hash, l.mark(), time.Now().Add(markTime))
		return false, false, nil
	}
	l.now = time.Now()
	r := f.result
	switch {
	case r.entry != nil && r.entry.Guessed && l.cookies && !l.p.Public:
		return false, false, nil // it doesn't say whether it is for this one, too
	case r.entry != nil && string(values(nil, x, f.varies)) == f.values:
		var body *reader
		if r.fill != nil {
			if body = r.fill.reader(x, false); body == nil {
				return false, false, nil // it came too late
			}
		}
		l.p.counts.collapsed.Add(1)
		x.Cached = exchange.CacheCollapsed
		l.serve(r.entry, body, "; fwd=uri-miss; collapsed")
		return true, false, nil
	case r.entry != nil || r.again:
		return false, true, nil
	case r.fault == nil:
		return false, false, nil
	case e != nil && rules.InsteadOfError(&e.Shelf, e.age(l.now), &l.control) && l.p.store.stands(e):
		l.p.counts.errors.Add(1)
		x.Cached = exchange.CacheStale
		l.serve(e, nil, "; fwd=stale; collapsed"+instead)
		return true, false, nil
	default:
		x.ResponseEdits.Add(cacheStatus, statusName+"; fwd=uri-miss; collapsed")
		return true, false, r.fault
	}
}

// waits waits for a flight; false: for too long, or the client has left.
func (l *look) waits(f *flight, most time.Duration) bool {
	t := time.NewTimer(max(most, 0))
	defer t.Stop()
	look := time.NewTicker(goneEvery)
	defer look.Stop()
	for {
		select {
		case <-f.ready:
			return true
		case <-t.C:
			return false
		case <-look.C:
			if l.x.Front != nil && l.x.Front.Gone(l.x) {
				return false
			}
		}
	}
}

// refresh fetches a new answer in the background, unless somebody does already.
func (l *look) refresh(e *entry) {
	if l.p.refresh == nil || l.x.Method != "GET" {
		return
	}
	f, started := l.p.store.join(l.start(true), func(o *flight) bool { return string(values(nil, l.x, o.varies)) == o.values })
	if !started {
		return
	}
	set := edited(&l.x.RequestEdits)
	stale := *e // that of the client's exchange goes with it
	if e.file != nil {
		if stale.file = e.file.again(); stale.file == nil {
			l.p.store.end(f)
			return
		}
	}
	sent := l.p.refresh(l.x, func(c *exchange.Exchange) {
		own := &look{
			p: l.p, x: c, control: rules.NoControl(), uri: f.uri, hash: f.hash, own: f.base, public: strings.Clone(l.public),
			authorized: l.authorized, cookies: l.cookies, edited: set, now: l.now, found: stale,
		}
		own.depart(f, &own.found, fetches)
	})
	if !sent {
		stale.release()
		l.p.store.end(f)
		return
	}
	l.p.counts.refreshed.Add(1)
}
