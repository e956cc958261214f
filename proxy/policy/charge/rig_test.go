package charge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/validate"
)

// rig is a ledger that runs, and a billing service.
type rig struct {
	t       *testing.T
	dir     string
	billing *chargetest.Billing
	server  *httptest.Server
	l       *Ledger
	stop    func()
	skip    atomic.Int64 // how far the ledger's clock is ahead
}

func newRig(t *testing.T) *rig {
	t.Helper()
	b, err := chargetest.New("")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: t.TempDir(), billing: b}
	conforms := conformance(t)
	b.Seen = conforms
	r.server = httptest.NewServer(b)
	t.Cleanup(r.server.Close)
	t.Cleanup(func() {
		r.end()
		for _, w := range b.Wrong() {
			t.Error("the billing service saw: ", w)
		}
	})
	r.start()
	return r
}

// conformance compares what a billing service gets with openapi.yaml.
func conformance(t *testing.T) func(r *http.Request, body []byte) {
	p := policytest.Policy(t, validate.Kind(nil, nil), "validate {\n openapi = \"openapi.yaml\"\n strict = true\n}").(policy.Requester)
	return func(r *http.Request, body []byte) {
		fields := []string{"Content-Type: application/json"}
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			fields = append(fields, "Idempotency-Key: "+key)
		}
		x := policytest.Exchange(t, r.Method+" http://billing.test"+strings.TrimSuffix(r.URL.String(), "?"), fields...)
		if len(body) > 0 {
			x.RequestBody, x.RequestLength = exchange.Bytes(body), int64(len(body))
		}
		if _, err := p.Request(x); err != nil {
			t.Errorf("%s %s isn't as openapi.yaml has it: %+v\n%s", r.Method, r.URL, asFault(err).Findings, body)
		}
	}
}

func (r *rig) start() {
	log := logrus.New()
	log.SetOutput(io.Discard)
	now := func() time.Time { return time.Now().Add(time.Duration(r.skip.Load())) }
	r.l = NewLedger(Deps{Log: log, Path: r.dir, Now: now})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	l := r.l
	go func() { defer close(done); l.Run(ctx) }()
	r.stop = func() { cancel(); <-done }
}

func (r *rig) end() {
	if r.stop != nil {
		r.stop()
		r.stop = nil
	}
}

// crash copies the journal as it is now, and starts another ledger on the copy: the
// process that had the old one is as good as killed.
func (r *rig) crash() {
	r.t.Helper()
	r.l.mu.Lock()
	round := r.l.round
	r.l.mu.Unlock()
	r.l.wakeWriter()
	if err := r.l.flush(round); err != nil {
		r.t.Fatal(err)
	}
	dir := r.t.TempDir()
	names, _ := filepath.Glob(filepath.Join(r.dir, "*"))
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(n)), b, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, t := range r.l.targets { // it tells nobody any more
		t.conf.Store(nil)
	}
	old := r.stop
	r.t.Cleanup(old)
	r.dir = dir
	r.start()
}

// policy makes the policy of these blocks, in force.
func (r *rig) policy(blocks ...string) *Policy {
	r.t.Helper()
	plan := r.l.Plan()
	kind := Kind(Means{Ledger: r.l, Plan: plan})
	join := kind.Join
	kind.Join = nil
	var list []policy.Policy
	for _, b := range blocks {
		list = append(list, policytest.Policy(r.t, kind, "charge {\n service = \"billing\"\n"+b+"\n}"))
	}
	p, err := join("paid", list)
	if err != nil {
		r.t.Fatal(err)
	}
	plan.Connect(func(string) Caller { return r.call })
	plan.Commit()
	return p.(*Policy)
}

func (r *rig) call(c *Call) (*Answer, error) {
	ctx, cancel := context.WithDeadline(context.Background(), c.Until)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, c.Method, r.server.URL+c.Path+"?"+c.Query, bytes.NewReader(c.Body))
	if err != nil {
		return nil, err
	}
	if c.Key != "" {
		q.Header.Set("Idempotency-Key", c.Key)
	}
	resp, err := r.server.Client().Do(q)
	if err != nil {
		return nil, errors.New("no answer")
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return &Answer{resp.StatusCode, b}, err
}

var acme = &exchange.Consumer{Name: "acme"}

func request(t testing.TB, line string, fields ...string) *exchange.Exchange {
	x := policytest.Exchange(t, line, fields...)
	x.Consumer = acme
	return x
}

// send takes a request through p; answer is the service.
func (r *rig) send(p *Policy, x *exchange.Exchange, answer func()) (body string, fault *exchange.Fault) {
	r.t.Helper()
	v, err := p.Request(x)
	if err == nil && v != policy.Next {
		r.t.Fatal("it answered by itself")
	}
	if err == nil {
		answer()
	} else {
		x.Err = asFault(err)
		x.Reply(402, "", nil)
	}
	if err := p.Response(x); err != nil {
		x.Err = asFault(err)
		x.Reply(503, "", nil)
	}
	if x.ResponseBody != nil {
		b, err := io.ReadAll(x.ResponseBody)
		if body = string(b); err != nil {
			x.Err = asFault(err)
		}
		_ = x.ResponseBody.Close()
		x.BytesOut = int64(len(b))
	}
	x.Response.Reset(nil)
	p.Finish(x)
	return body, x.Err
}

func (r *rig) get(p *Policy, status int, fields ...string) *exchange.Exchange {
	r.t.Helper()
	x := request(r.t, "GET https://api.example.com/search?q=1")
	r.send(p, x, func() { policytest.Answer(x, status, "0123456789", fields...) })
	return x
}

// eventually waits until f says nothing.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// settled waits until nothing is pending, and compares what was charged.
func (r *rig) settled(want string) {
	r.t.Helper()
	eventually(r.t, func() error {
		if s := r.l.Status(); s.Pending > 0 {
			return fmt.Errorf("%d are pending", s.Pending)
		}
		if got := r.billing.Units("", ""); got != want {
			return fmt.Errorf("%s units were charged, want %s", got, want)
		}
		return nil
	})
	if n := r.billing.Count("reserved"); n > 0 {
		r.t.Errorf("%d reservations have no outcome", n)
	}
}

var modes = []string{"event", "reserve", "lease"}

func eachMode(t *testing.T, f func(t *testing.T, mode string)) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { f(t, mode) })
	}
}

// balance compares both sides, with all leases returned.
func (r *rig) balance(mode, want string) {
	r.t.Helper()
	if mode == "lease" {
		r.end()
	}
	r.settledNow(mode, want)
}

func (r *rig) settledNow(mode, want string) {
	r.t.Helper()
	if mode != "lease" {
		r.settled(want)
	}
	if got := r.billing.Units("", ""); got != want {
		r.t.Errorf("%s units were charged, want %s", got, want)
	}
	totals, err := r.l.Totals("", "", "")
	if err != nil {
		r.t.Fatal(err)
	}
	var sum Amount
	for _, v := range totals.Totals {
		if sum += v.Units; v.Untold != 0 {
			r.t.Errorf("%s of %s are untold", v.Untold, v.Units)
		}
	}
	if sum.String() != want {
		r.t.Errorf("our total is %s, want %s", sum, want)
	}
}
