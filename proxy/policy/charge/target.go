package charge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// Call is a request to a billing service.
type Call struct {
	Method, Path, Query string
	Host                string // "": the service's name
	Key                 string // Idempotency-Key; "": none
	Token               secret.String
	Body                []byte
	Until               time.Time
}

// Answer is what a billing service says.
type Answer struct {
	Status int
	Body   []byte
}

// Caller sends a call to an instance of a service, within its time.
type Caller func(c *Call) (*Answer, error)

// Settings say which billing service, and how it is asked.
type Settings struct {
	Service string // of the configuration; "": URL
	URL     string // scheme, host and port
	Path    string
	Token   secret.String
}

// Name is what the target is called, in the journal too.
func (s *Settings) Name() string {
	if s.URL != "" {
		return s.URL + s.Path
	}
	return s.Service + s.Path
}

// Where is the service that is called: its name, or a URL.
func (s *Settings) Where() string {
	if s.URL != "" {
		return s.URL
	}
	return s.Service
}

const (
	failuresUntilDown = 3
	backoffFirst      = 200 * time.Millisecond
	backoffMost       = 5 * time.Second
)

// Target is a billing service that is asked at one path.
type Target struct {
	name string
	conf atomic.Pointer[conf] // nil: no configuration in force has it

	requests, failures atomic.Uint64
	spent              atomic.Int64 // nanoseconds that requests took
	down               atomic.Bool

	// The ledger's mutex guards these.
	queue    []*entry
	busy     bool
	row      int       // failures in a row
	rests    int       // how often it was left alone since it last worked
	next     time.Time // before which it isn't asked again, after a failure
	probe    time.Time // before which requests of clients don't ask, since one of them does
	err      error     // of the last failure
	failedAt time.Time
}

type conf struct {
	Settings
	call Caller
}

// Plan are the targets of a configuration that isn't in force yet.
type Plan struct {
	l       *Ledger
	targets map[string]*planned
}

type planned struct {
	t   *Target
	set Settings
	by  Caller
}

// Plan starts the targets of another configuration.
func (l *Ledger) Plan() *Plan { return &Plan{l: l, targets: map[string]*planned{}} }

// target is that of these settings: the one in use, if there is one.
func (p *Plan) target(set Settings) (*Target, error) {
	name := set.Name()
	if have := p.targets[name]; have != nil {
		if have.set != set {
			return nil, fmt.Errorf("token: another charge block asks %s with another one", name)
		}
		return have.t, nil
	}
	p.l.mu.Lock()
	t := p.l.targets[name]
	p.l.mu.Unlock()
	if t == nil {
		t = &Target{name: name}
	}
	p.targets[name] = &planned{t: t, set: set}
	return t, nil
}

// Services are the services, and URLs, that the plan's targets are at.
func (p *Plan) Services() []string {
	var list []string
	for _, t := range p.targets {
		list = append(list, t.set.Where())
	}
	return list
}

// Connect gives the targets their way to the services.
func (p *Plan) Connect(by func(service string) Caller) {
	for _, t := range p.targets {
		t.by = by(t.set.Where())
	}
}

// Commit makes the plan's targets those in use. What there is to be told to others
// waits until a configuration has them again.
func (p *Plan) Commit() {
	l := p.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, t := range l.targets {
		if p.targets[name] != nil {
			continue
		}
		t.conf.Store(nil)
		if len(t.queue) > 0 {
			l.Log.WithField("service", name).Warnf("%d charges wait for a configuration with that service", len(t.queue))
		}
	}
	for name, t := range p.targets {
		was := l.targets[name]
		if was != nil && was != t.t { // of entries of the journal
			t.t.queue = append(t.t.queue, was.queue...)
			was.queue = nil
		}
		t.t.conf.Store(&conf{t.set, t.by})
		l.targets[name] = t.t
	}
	l.kickCourier()
}

var errUnconfigured = errors.New("no configuration in force has that service")

// call asks, and notes how the service does. An error is a service that can't be
// asked, or that doesn't work.
func (l *Ledger) call(t *Target, c *Call) (*Answer, error) {
	k := t.conf.Load()
	if k == nil || k.call == nil {
		return nil, errUnconfigured
	}
	c.Path, c.Token = k.Path+c.Path, k.Token
	if k.URL != "" {
		if u, err := url.Parse(k.URL); err == nil {
			c.Host = u.Host
		}
	}
	if base, query, ok := strings.Cut(k.Path, "?"); ok { // the path may have a query of its own
		c.Path = base + strings.TrimPrefix(c.Path, k.Path)
		c.Query = strings.Trim(query+"&"+c.Query, "&")
	}
	begin := time.Now()
	t.requests.Add(1)
	a, err := k.call(c)
	t.spent.Add(int64(time.Since(begin)))
	if err == nil && (a.Status >= 500 || a.Status == 429 || a.Status == 408 || a.Status < 200 || a.Status >= 300 && a.Status < 400) {
		err = fmt.Errorf("it answers %d", a.Status)
	}
	if err != nil {
		t.failures.Add(1)
		l.noteFailure(t, err)
		return nil, err
	}
	return a, nil
}

// noteFailure has the target rest, longer each time.
func (l *Ledger) noteFailure(t *Target, err error) {
	now := l.Now()
	l.mu.Lock()
	t.row++
	if !now.Before(t.next) { // else it is one of those that were under way together
		t.rests++
		rest := min(backoffFirst<<min(t.rests-1, 10), backoffMost)
		t.next = now.Add(rest/2 + rand.N(rest))
	}
	first := t.row == failuresUntilDown
	t.err, t.failedAt = err, now
	l.mu.Unlock()
	if first {
		t.down.Store(true)
		l.Log.WithField("service", t.name).WithError(err).Error("a billing service can't be asked: charged routes do what their when_down says, and charges wait")
	}
}

// noteSuccess ends that.
func (l *Ledger) noteSuccess(t *Target) {
	if !t.down.Load() && func() bool { l.mu.Lock(); defer l.mu.Unlock(); return t.row == 0 }() {
		return
	}
	l.mu.Lock()
	was := t.row >= failuresUntilDown
	t.row, t.rests, t.next = 0, 0, time.Time{}
	for k, a := range l.state.accounts { // what is given away is given anew
		if k.target == t.name {
			a.given = 0
		}
	}
	l.mu.Unlock()
	t.down.Store(false)
	l.kickCourier()
	if was {
		l.Log.WithField("service", t.name).Info("the billing service answers again")
	}
}

// ready reports whether the target may be asked by a request. One that is down is
// asked by one request at a time, after a rest.
func (l *Ledger) ready(t *Target) error {
	if t.conf.Load() == nil {
		return errUnconfigured
	}
	if !t.down.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := l.Now(); !now.Before(t.next) && !now.Before(t.probe) {
		t.probe = now.Add(time.Second) // others wait for how this one ends
		return nil
	}
	return t.err
}

// message is what a billing service is told, or asked.
type message struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Meter     string `json:"meter"`
	Units     Amount `json:"units"`
	Consumer  string `json:"consumer"`
	Route     string `json:"route,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Time      string `json:"time"`
	Node      string `json:"node"`
	ClientKey string `json:"client_key,omitempty"`
	Reason    string `json:"reason,omitempty"`

	// Of a lease.
	Expires string    `json:"expires,omitempty"`
	Granted *Amount   `json:"granted,omitempty"`
	Usage   []dayUsed `json:"usage,omitempty"`
}

type dayUsed struct {
	Day   string `json:"day"`
	Units Amount `json:"units"`
}

// batch is what it is told at once.
type batch struct {
	Kind     string    `json:"kind"` // batch
	Node     string    `json:"node"`
	Messages []message `json:"messages"`
}

// reply is an answer's body; all of it may be missing.
type reply struct {
	Reason   string     `json:"reason"`
	Granted  *Amount    `json:"granted"`
	Expires  *time.Time `json:"expires"`
	Rejected []struct {
		ID     string `json:"id"`
		Reason string `json:"reason"`
	} `json:"rejected"`
}

// read reads an answer's body. A service that says nothing says {}.
func (a *Answer) read(into any) error {
	b := bytes.TrimSpace(a.Body)
	if len(b) == 0 || b[0] != '{' && a.Status >= 300 {
		return nil // a page of some proxy
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("its answer isn't as the protocol has it: %w", err)
	}
	return nil
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// Refusal is a billing service that says no, in its words.
type Refusal struct{ Reason string }

func (e *Refusal) Error() string { return "refused: " + e.Reason }

// ask asks for a reservation or a lease. A Refusal is an answer, other errors are
// none. What wasn't answered is asked once more, as the same, if there is time.
func (l *Ledger) ask(t *Target, m *message, timeout time.Duration) (*reply, error) {
	m.Node = l.node
	body, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(timeout)
	var a *Answer
	for try := range 2 {
		limit := until
		if try == 0 {
			limit = until.Add(-timeout / 3) // a lost answer leaves time for another
		}
		if a, err = l.call(t, &Call{Method: "POST", Key: m.ID, Body: body, Until: limit}); err == nil || time.Until(until) < timeout/4 {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	var r reply
	if err := a.read(&r); err != nil {
		l.noteFailure(t, err)
		return nil, err
	}
	switch {
	case a.Status < 300:
		l.noteSuccess(t)
		return &r, nil
	case a.Status == 402 || a.Status == 403 || a.Status == 409:
		l.noteSuccess(t)
		return nil, &Refusal{clean(r.Reason)}
	default: // a path or a credential that is wrong is nobody's no
		err := fmt.Errorf("it answers %d", a.Status)
		l.noteFailure(t, err)
		return nil, err
	}
}

// clean is a reason as clients may see it.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) { // controls, and what turns the text around that follows
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "")
	}
	return text
}
