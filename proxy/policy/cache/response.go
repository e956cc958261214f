package cache

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// markTime is how long requests don't wait for each other whose answers weren't
// stored.
const markTime = 10 * time.Second

// rangeMarkTime is how long parts of what isn't stored are asked for as they are.
const rangeMarkTime = 10 * time.Minute

// Response stores what may be stored, and forgets what doesn't hold any more.
func (p *Policy) Response(x *exchange.Exchange) error {
	if t, ok := x.Cache.(*task); ok {
		switch t.duty {
		case invalidates:
			p.invalidate(x)
			hide(&x.Response)
		case compares:
			t.compare(x)
		default:
			t.fetched(x)
		}
	} else {
		hide(&x.Response)
	}
	if !p.ShowTags {
		hideTags(&x.Response)
	}
	return nil
}

// Finish sees to it that nobody waits for an exchange that is over.
func (p *Policy) Finish(x *exchange.Exchange) {
	if t, ok := x.Cache.(*task); ok && t.flight != nil {
		p.store.end(t.flight)
		t.look.found.release()
	}
	x.Cache = nil
}

// invalidate forgets what a request that changes something has changed (4.4): its
// URI, and those that the response names, if they are of the same origin.
func (p *Policy) invalidate(x *exchange.Exchange) {
	if x.Err != nil || x.Tries == 0 || !rules.Invalidates(x.Method, x.Status) {
		return
	}
	p.store.forget(p.uri(x, x.Target.Path, x.Target.Query, x.Target.HasQuery))
	for _, name := range [...]string{"Location", "Content-Location"} {
		value, ok := x.Response.Find(name)
		if !ok {
			continue
		}
		base := &url.URL{Scheme: x.Target.Scheme, Host: x.Target.Authority, Path: "/"}
		if path, err := url.Parse(x.Target.Path); err == nil {
			base = base.ResolveReference(path)
		}
		u, err := base.Parse(value)
		if err != nil || u.Scheme != x.Target.Scheme || !strings.EqualFold(u.Hostname(), x.Target.Host) || port(u) != port(base) {
			continue
		}
		p.store.forget(p.uri(x, u.EscapedPath(), u.RawQuery, u.RawQuery != "" || u.ForceQuery))
	}
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return defaultPort(u.Scheme)
}

// status says in Cache-Status what became of a request that was sent on.
func (t *task) status(x *exchange.Exchange, more string) {
	x.ResponseEdits.Add(cacheStatus, statusName+t.why+more)
}

func (t *task) asked(came time.Time) rules.Asked {
	return rules.Asked{Authorization: t.look.authorized, Cookies: t.look.cookies, Came: came}
}

// fetched takes the response to a request whose answer may be stored.
func (t *task) fetched(x *exchange.Exchange) {
	l, s := t.look, t.look.p.store
	l.now = time.Now()
	failed := x.Err != nil || x.Tries > 0 && rules.Error(x.Status)
	switch {
	case failed && t.stale != nil && rules.InsteadOfError(&t.stale.Shelf, t.stale.age(l.now), &l.control) && s.stands(t.stale):
		s.settle(t.flight, result{fault: failure(x)}, nil, "")
		l.p.counts.errors.Add(1)
		x.Cached = exchange.CacheStale
		how := t.why
		if x.Err == nil {
			how += "; fwd-status=" + strconv.Itoa(x.Status)
		}
		x.Err = nil
		l.serve(t.stale, nil, how+instead)
	case x.Err != nil:
		r := result{again: true} // its client left, for one: that mustn't be the others' matter
		if x.Err.Source == exchange.FromUpstream {
			r = result{fault: failure(x)}
		}
		s.settle(t.flight, r, nil, "")
		s.end(t.flight)
		t.status(x, "")
	case x.Tries == 0: // a policy's answer, not the service's
		s.end(t.flight)
	case x.Status == 304 && t.validating:
		t.validated(x)
	default:
		t.take(x)
	}
}

// instead says in Cache-Status why a stale answer was given.
const instead = `; detail="stale-if-error"`

// failure is what those get who wait for a service that doesn't answer.
func failure(x *exchange.Exchange) *exchange.Fault {
	if f := x.Err; f != nil {
		return exchange.NewFault(exchange.FromUpstream, f.Kind, "another request, which was to fetch the same: %s", f.Error())
	}
	return exchange.NewFault(exchange.FromUpstream, exchange.ConnectFailed, "another request, which was to fetch the same, got %d", x.Status)
}

// take stores a response, or doesn't.
func (t *task) take(x *exchange.Exchange) {
	l := t.look
	p := l.p
	v, tags := t.judge(x.Status, &x.Response, "")
	switch {
	case v.Store && x.ResponseLength > p.MaxObject:
		v.Store, v.Why = false, "it is larger than max_object"
	case v.Store && x.ResponseLength > p.store.largest() && !p.store.disk.takes():
		v.Store, v.Why = false, "it is larger than a quarter of the cache's memory"
	}
	if !v.Store {
		was := ""
		p.store.refused(p.counts, reason{uri: l.uri, route: p.route, why: v.Why, status: x.Status, at: l.now})
		hide(&x.Response)
		if t.stale != nil && x.Status < 500 { // the service has another answer now
			p.store.drop(t.stale)
		}
		if t.conditional || t.flight.waiting.Load() > 0 {
			p.store.setMark(l.hash, l.mark(), l.now.Add(markTime))
		}
		if x.Status == 200 && rules.Parts(&x.Request) {
			p.store.setMark(l.hash, l.rangeMark(), l.now.Add(rangeMarkTime))
			l.cut(x, rules.Validators{ETag: x.Response.Get(exchange.ETag), LastModified: x.Response.Get(exchange.LastModified), Date: date(&x.Response)}, nil)
			was = forwarded(x, 200)
		}
		t.status(x, was+"; detail="+strconv.Quote(v.Why))
		p.store.end(t.flight)
		return
	}
	age := rules.InitialAge(&x.Response, t.flight.sent, l.now)
	coding, head := t.coding(x), rules.Copy(&x.Response, v.Drop, l.now)
	if coding != "" {
		head = rules.Decoded(head)
	}
	e := newEntry(x.Status, head, v.Shelf, l.now.Add(-age))
	e.length, e.recoded, e.tags = x.ResponseLength, coding != "", tags
	hide(&x.Response)
	content := t.store(x, e, v.Public, coding)
	if t.conditional && x.Status == 200 && rules.NotModified(&x.Request, e.Validators) {
		x.Status = 304 // the body is read for the store, and closed with the exchange
		dropContent(&x.Response)
	}
	l.cut(x, e.Validators, content)
	t.status(x, forwarded(x, 200)+"; stored")
}

// forwarded says in Cache-Status which status the service has answered with, when the
// client gets another one.
func forwarded(x *exchange.Exchange, status int) string {
	if x.Status != status && (x.Status == 206 || x.Status == 304 || x.Status == 416) {
		return "; fwd-status=" + strconv.Itoa(status)
	}
	return ""
}

// coding is that of the response, if it is taken off to be stored.
func (t *task) coding(x *exchange.Exchange) string {
	if c := t.look.p.coder; c != nil && x.HasResponseBody() && x.ResponseBody != nil {
		return c.Coded(x)
	}
	return ""
}

// judge says what becomes of a response, and what it is tagged with: by itself, or
// as the answer was that it validates.
func (t *task) judge(status int, h *exchange.Head, before string) (rules.Verdict, string) {
	l := t.look
	v := rules.Judge(t.asked(l.now), status, h, l.p.options)
	own, nobody := l.personal(l.p.variesBy(h))
	if v.Store && nobody {
		v.Store, v.Why = false, "it varies by what the gateway says"
	}
	v.Public = v.Public && !own
	tags := before
	if hasTags(h) {
		var few bool
		if tags, few = tagsOf(h); !few && v.Store {
			v.Store, v.Why = false, "it has more tags than are kept"
		}
		if !l.p.ShowTags {
			v.Drop = append(v.Drop, tagFields...)
		}
	}
	return v, tags
}

// variesBy is Vary, and Accept-Encoding for a coding that came without saying so:
// it is for those who take it. Where codings are made here, one answer is for all.
func (p *Policy) variesBy(h *exchange.Head) []string {
	varies, _ := rules.Vary(h)
	if h.Has(exchange.ContentEncoding) && !slices.Contains(varies, "accept-encoding") {
		varies = append(varies, "accept-encoding")
		slices.Sort(varies)
	}
	if p.coder != nil && !h.Has(exchange.ContentEncoding) {
		varies = slices.DeleteFunc(varies, func(s string) bool { return s == "accept-encoding" })
	}
	return varies
}

func newEntry(status int, head *exchange.Head, shelf rules.Shelf, born time.Time) *entry {
	return &entry{
		status: status, head: head, Shelf: shelf, born: born, length: -1,
		Validators: rules.Validators{ETag: strings.Clone(head.Get(exchange.ETag)), LastModified: strings.Clone(head.Get(exchange.LastModified)), Date: date(head)},
	}
}

func date(h *exchange.Head) time.Time {
	t, _ := rules.ParseDate(h.Get(exchange.Date))
	return t
}

// store stores the answer e, now or when all of it has come; without coding, if that
// isn't "". It returns the content, nil while that is on its way.
func (t *task) store(x *exchange.Exchange, e *entry, public bool, coding string) (content []byte) {
	l, k := t.look, t.keeping(x, e, public)
	if x.ResponseBody == nil || !x.HasResponseBody() {
		k.complete(e, nil)
		return nil
	}
	sized, raw := e.length >= 0, (*recording)(nil)
	if coding != "" {
		raw = l.decode(x, e, coding)
	}
	body := x.ResponseBody
	b, done := body.Next()
	if done {
		b = append([]byte(nil), b...)
		x.ResponseBody = exchange.Bytes(b)
		_ = body.Close() // all of it is here
		raw.done()
		if whole := k.complete(e, b); t.wanted() {
			l.stored(whole, nil)
		}
		return b
	}
	f := k.newFill(body, e, b)
	f.sized = sized
	x.ResponseBody = f.reader(x, true)
	if raw != nil || t.wanted() {
		l.stored(e, f)
	}
	k.share(e, f)
	x.Share()
	go f.run(func(parts [][]byte, size int64, p *spool) {
		defer raw.done()
		whole := *e
		whole.parts, whole.length, whole.spool = parts, size, p
		if p != nil {
			whole.id, whole.parts = p.id, nil
		}
		if !k.finish(&whole) {
			return
		}
		f.entry = &whole
		if raw != nil && raw.whole() {
			k.store.attach(&whole, coding, raw.b)
		}
	}, func() {
		raw.done()
		k.refused(e.status, "there is no room for it, or it didn't come whole")
	})
	return nil
}

// wanted reports whether others wait for the same, so that a coding is worth to be
// kept already. What nobody asks for again is encoded while it passes.
func (t *task) wanted() bool { return t.flight.waiting.Load() > 0 }

// keeping is all that storing an answer takes when its exchange may be busy: it
// holds no view into that.
type keeping struct {
	store  *Store
	counts *counts
	flight *flight
	most   int64
	base   string
	varies []string
	values string
	shared bool // those who wait may have it
}

func (t *task) keeping(x *exchange.Exchange, e *entry, public bool) *keeping {
	varies := t.look.p.variesBy(e.fields())
	k := &keeping{
		store: t.look.p.store, counts: t.look.p.counts, flight: t.flight, most: t.look.p.MaxObject, base: t.flight.base, varies: varies,
		values: string(values(nil, x, varies)), shared: !e.NoCache && e.Lifetime > e.age(t.look.now),
	}
	if public {
		k.base = strings.Clone(t.look.public)
	}
	return k
}

func (k *keeping) share(e *entry, f *fill) {
	if k.shared {
		k.store.settle(k.flight, result{entry: e, fill: f}, k.varies, k.values)
	}
}

// complete stores an answer of which all has come.
func (k *keeping) complete(e *entry, body []byte) *entry {
	whole := *e
	whole.body, whole.length = body, int64(len(body))
	k.finish(&whole)
	return &whole
}

// finish stores an answer that is complete, and ends its flight. It reports whether
// it has.
func (k *keeping) finish(e *entry) bool {
	ok := k.store.keep(k.flight, e, k.varies, k.base, k.values)
	if ok {
		k.counts.stored.Add(1)
	} else {
		k.refused(e.status, "there is no room for it, or it was forgotten while it came")
	}
	switch {
	case e.file != nil: // each opens it by itself
		k.store.settle(k.flight, result{again: true}, nil, "")
	case e.parts == nil && e.spool == nil:
		k.share(e, nil)
	}
	k.store.end(k.flight)
	return ok
}

// validated takes a 304 to the question whether the stored answer still holds
// (4.3.4), which goes to the client then.
func (t *task) validated(x *exchange.Exchange) {
	l := t.look
	l.p.counts.validated.Add(1)
	x.Cached = exchange.CacheValidated
	e, v := t.stale, rules.Verdict{}
	if rules.Confirms(&x.Response, t.stale.Validators) {
		e, v = t.freshen(x)
	}
	if v.Store {
		t.keeping(x, e, v.Public).finish(e)
	} else {
		l.p.store.drop(t.stale)
		l.p.store.end(t.flight)
	}
	if e != t.stale {
		t.stale.file = nil // it is e's now
	}
	l.serve(e, nil, t.why+"; fwd-status=304")
}

// freshen is the stored answer with what the response x says of it (3.2).
func (t *task) freshen(x *exchange.Exchange) (*entry, rules.Verdict) {
	l := t.look
	head := rules.Update(t.stale.fields(), &x.Response, nil, l.now)
	if t.stale.recoded {
		head = rules.Decoded(head)
	}
	v, tags := t.judge(t.stale.status, head, t.stale.tags)
	kept := head
	if v.Store {
		kept = rules.Copy(head, v.Drop, l.now)
	}
	age := rules.InitialAge(&x.Response, t.flight.sent, l.now)
	e := newEntry(t.stale.status, kept, v.Shelf, l.now.Add(-age))
	e.body, e.length, e.id, e.recoded, e.file, e.tags = t.stale.body, t.stale.length, t.stale.id, t.stale.recoded, t.stale.file, strings.Clone(tags)
	e.again = true
	return e, v
}

// compare sees what HEAD says of a stored answer to GET (4.3.5).
func (t *task) compare(x *exchange.Exchange) {
	l, s := t.look, t.look.p.store
	defer s.end(t.flight)
	l.now = time.Now()
	t.status(x, "")
	hide(&x.Response)
	if t.stale == nil || x.Err != nil || x.Tries == 0 || x.Status != 200 || t.stale.status != 200 {
		return
	}
	h, old := &x.Response, &t.stale.Validators
	tag, length := h.Get(exchange.ETag), x.ResponseLength
	if t.stale.recoded { // the service has another coding
		tag, length = rules.WeakTag(tag), t.stale.length
	}
	same := (!h.Has(exchange.ETag) || tag == old.ETag) &&
		(!h.Has(exchange.LastModified) || h.Get(exchange.LastModified) == old.LastModified) &&
		(!h.Has(exchange.ContentLength) || length == t.stale.length)
	if !same {
		s.drop(t.stale)
		return
	}
	if e, v := t.freshen(x); v.Store {
		t.keeping(x, e, v.Public).finish(e)
	}
}
