package charge

import (
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// keyed sends a request with a key, and returns what it cost.
func (r *rig) keyed(p *Policy, body string, fields ...string) int64 {
	x := request(r.t, "GET https://api.example.com/price", append(fields, "Idempotency-Key: k")...)
	r.send(p, x, func() { policytest.Answer(x, 200, body) })
	return x.Charged / 1_000_000
}

// TestKeyIsNoSubscription: a key is good for some answers more, over a restart too, and
// then for none.
func TestKeyIsNoSubscription(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		block := "meter = \"m\"\nrepeats = 3\nmode = \"" + mode + "\""
		p := r.policy(block)
		charges := ""
		for i := range 10 {
			if i == 6 { // what was used of the second key is known afterwards
				r.end()
				r.start()
				p = r.policy(block)
			}
			if r.keyed(p, "ok") > 0 {
				charges += "$"
			} else {
				charges += "."
			}
		}
		if charges != "$...$...$." {
			t.Errorf("charged: %s", charges)
		}
		r.balance(mode, "3")
	})
}

// TestKeyIsForOnePrice: what costs more isn't had for what cost less.
func TestKeyIsForOnePrice(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		p := r.policy("meter = \"m\"\nunits = \"request.headers['x-quality'] == 'high' ? 20 : 1\"\nmode = \"" + mode + "\"")
		for _, tt := range []struct {
			field string
			want  int64
		}{{"X-Quality: low", 1}, {"X-Quality: high", 20}, {"X-Quality: low", 0}, {"X-Quality: high", 0}} {
			if n := r.keyed(p, "ok", tt.field); n != tt.want {
				t.Errorf("%s: %d, want %d", tt.field, n, tt.want)
			}
		}
		r.balance(mode, "21")
	})
}

// TestKeyAndBytes: a part isn't the whole, and what goes by bytes is charged for each
// answer's.
func TestKeyAndBytes(t *testing.T) {
	r := newRig(t)
	fixed, bytes := r.policy(`meter = "fixed"`), r.policy("meter = \"bytes\"\nunits = \"response.bytes_out\"\nestimate = \"1\"")
	for _, tt := range []struct {
		p     *Policy
		body  string
		field string
		want  int64
	}{
		{fixed, "a", "Range: bytes=0-0", 1}, {fixed, "abc", "X: y", 1}, {fixed, "a", "Range: bytes=0-0", 0},
		{bytes, "a", "X: y", 1}, {bytes, strings.Repeat("a", 50), "X: y", 50},
	} {
		if n := r.keyed(tt.p, tt.body, tt.field); n != tt.want {
			t.Errorf("%d bytes, %s: %d, want %d", len(tt.body), tt.field, n, tt.want)
		}
	}
}

// TestLeaseIsSpentOnce: what answers that are on their way cost isn't counted twice, and
// the lease isn't given back before they have ended.
func TestLeaseIsSpentOnce(t *testing.T) {
	r := newRig(t)
	r.billing.Grant = func(*chargetest.Message) map[string]any { return map[string]any{"granted": "10"} }
	p := r.policy("meter = \"m\"\nmode = \"lease\"\nlease = \"20\"")
	var list []*exchange.Exchange
	for i := range 10 {
		x := request(t, "GET https://api.example.com/")
		if v, err := p.Request(x); err != nil || v != policy.Next {
			t.Fatalf("number %d of 10 that were granted: %v", i+1, err)
		}
		policytest.Answer(x, 200, "ok")
		if err := p.Response(x); err != nil {
			t.Fatal(err)
		}
		list = append(list, x)
	}
	r.skip.Store(int64(time.Hour)) // the lease is over
	r.l.look(r.l.Now())
	for i, x := range list {
		if i%2 == 0 {
			x.Err = exchange.NewFault(exchange.FromUpstream, exchange.BackendReset, "it broke off")
		}
		p.Finish(x)
	}
	r.balance("lease", "5")
}

// TestLeaseOfThePast: a billing service whose clock is slow isn't asked in a circle.
func TestLeaseOfThePast(t *testing.T) {
	r := newRig(t)
	r.billing.Grant = func(*chargetest.Message) map[string]any {
		return map[string]any{"expires": time.Now().Add(-time.Minute)}
	}
	p := r.policy("meter = \"m\"\nmode = \"lease\"")
	for range 10 {
		if x := r.get(p, 200); x.Charged != 0 || x.Err == nil || x.Err.Kind != exchange.ChargeUnavailable {
			t.Fatalf("charged %d: %v", x.Charged, x.Err)
		}
	}
	if n := r.l.Status().Services[0].Requests; n > 5 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestClean: what a billing service says can't write on terminals what it likes.
func TestClean(t *testing.T) {
	if got, want := clean("no\r\ncredit\x1b[31m \u009b31m\u202e \xff"+strings.Repeat("é", 200)), "nocredit[31m 31m "+strings.Repeat("é", 91); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
