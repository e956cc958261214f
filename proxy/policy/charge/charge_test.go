package charge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(Means{})) }

// TestWhatCosts: one charge for each answer, none for errors.
func TestWhatCosts(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		p := r.policy(`meter = "search"
			units = "0.5"
			mode = "` + mode + `"`)
		for range 10 {
			if x := r.get(p, 200); x.Charged != 500_000 {
				t.Fatalf("Charged = %d", x.Charged)
			}
		}
		for _, status := range []int{404, 429, 500, 502} {
			if x := r.get(p, status); x.Charged != 0 {
				t.Errorf("%d: Charged = %d", status, x.Charged)
			}
		}
		copied := request(t, "GET https://api.example.com/")
		copied.Copy = true
		r.send(p, copied, func() { policytest.Answer(copied, 200, "") })
		r.balance(mode, "5")
	})
}

// TestPrices: of numbers, of expressions, and of what can't be told.
func TestPrices(t *testing.T) {
	for _, tt := range []struct {
		name, block string
		status      int
		fields      []string
		want        string
	}{
		{"a number", `units = "0.000001"`, 200, nil, "0.000001"},
		{"free", `units = "0"`, 200, nil, "0"},
		{"of the request", `units = "request.query['q'] == '1' ? 2.5 : 1.0"`, 200, nil, "2.5"},
		{"a header's", `units = "int(response.headers['x-tokens'])"
			estimate = "10"`, 200, []string{"X-Tokens: 37"}, "37"},
		{"without the header: the estimate", `units = "int(response.headers['x-tokens'])"
			estimate = "10"`, 200, nil, "10"},
		{"less than nothing: the estimate", `units = "int(response.headers['x-tokens'])"
			estimate = "10"`, 200, []string{"X-Tokens: -1"}, "10"},
		{"no number: the estimate", `units = "double(response.headers['x-tokens'])"
			estimate = "10"`, 200, []string{"X-Tokens: NaN"}, "10"},
		{"too much: the estimate", `units = "double(response.headers['x-tokens'])"
			estimate = "10"`, 200, []string{"X-Tokens: 1e300"}, "10"},
		{"bytes", `units = "double(response.bytes_out) / 4.0"
			estimate = "10"`, 200, nil, "2.5"},
		{"errors, too", "errors = true", 500, nil, "1"},
		{"when", `when = "response.status == 201"`, 200, nil, "0"},
		{"when not", `when = "response.status == 201"`, 201, nil, "1"},
		{"when of the request", `when = "request.method == 'POST'"`, 200, nil, "0"},
		{"when by size", `when = "response.bytes_out > 10"`, 200, nil, "0"},
		{"when it can't be told", `when = "response.headers['x-a'] == 'b'"`, 200, nil, "0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			p := r.policy("meter = \"m\"\n" + tt.block)
			x := r.get(p, tt.status, tt.fields...)
			if got := Amount(x.Charged).String(); got != tt.want {
				t.Errorf("Charged = %s, want %s", got, tt.want)
			}
			r.settled(tt.want)
		})
	}
}

// TestNoPrice: a request whose price can't be told before it is sent isn't sent.
func TestNoPrice(t *testing.T) {
	r := newRig(t)
	p := r.policy(`meter = "m"
		units = "int(request.headers['x-n'])"`)
	x := request(t, "GET https://api.example.com/")
	if _, err := p.Request(x); err == nil || asFault(err).Kind != exchange.Forbidden {
		t.Errorf("Request: %v", err)
	}
}

// TestRefused: what the billing service refuses isn't sent.
func TestRefused(t *testing.T) {
	for _, mode := range []string{"reserve", "lease"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t)
			r.billing.Refuse = func(*chargetest.Message) string { return "the card\nhas expired" }
			p := r.policy("meter = \"m\"\nmode = \"" + mode + "\"")
			_, fault := r.send(p, request(t, "GET https://api.example.com/"), func() { t.Error("it was sent") })
			if fault == nil || fault.Kind != exchange.PaymentRequired || len(fault.Findings) != 1 || fault.Findings[0].What != "the cardhas expired" {
				t.Errorf("fault = %+v", fault)
			}
			r.balance(mode, "0")
		})
	}
}

// TestSeveralMeters: the second one's refusal takes the first one's reservation back.
func TestSeveralMeters(t *testing.T) {
	r := newRig(t)
	r.billing.Refuse = func(m *chargetest.Message) string {
		if m.Meter == "b" {
			return "no"
		}
		return ""
	}
	p := r.policy(`meter = "a"`, `meter = "b"`)
	if _, fault := r.send(p, request(t, "GET https://api.example.com/"), nil); fault == nil || fault.Kind != exchange.PaymentRequired {
		t.Fatalf("fault = %v", fault)
	}
	r.settled("0")
	if n := r.billing.Count("void"); n != 1 {
		t.Errorf("%d reservations are taken back, want 1", n)
	}
}

// TestIdempotencyKey: repeated requests of a consumer are charged once, at a time and
// one after the other, over a crash too; others aren't.
func TestIdempotencyKey(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		block := "meter = \"m\"\nrepeats = 20\nmode = \"" + mode + "\""
		p := r.policy(block)
		do := func(p *Policy, consumer *exchange.Consumer, line, body string, status int) int64 {
			x := request(t, line, "Idempotency-Key: k-1")
			x.Consumer = consumer
			if body != "" {
				x.RequestBody, x.RequestLength = exchange.Bytes([]byte(body)), int64(len(body))
			}
			r.send(p, x, func() { policytest.Answer(x, status, "ok") })
			return x.Charged / 1_000_000
		}
		const line = "POST https://api.example.com/search"
		if n := do(p, acme, line, "a", 500); n != 0 {
			t.Errorf("an error: %d", n)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		sum := int64(0)
		for range 20 {
			wg.Go(func() {
				n := do(p, acme, line, "a", 200)
				mu.Lock()
				sum += n
				mu.Unlock()
			})
		}
		wg.Wait()
		if sum != 1 {
			t.Errorf("20 at a time: %d charges", sum)
		}
		r.crash()
		p = r.policy(block)
		for _, tt := range []struct {
			what     string
			consumer *exchange.Consumer
			line     string
			body     string
			want     int64
		}{
			{"once more", acme, line, "a", 0},
			{"another consumer", &exchange.Consumer{Name: "other"}, line, "a", 1},
			{"another content", acme, line, "b", 1},
			{"another target", acme, line + "?b", "a", 1},
			{"another method", acme, "PUT https://api.example.com/search", "a", 1},
			{"nobody", nil, line, "a", 1},
			{"nobody again", nil, line, "a", 1},
		} {
			if n := do(p, tt.consumer, tt.line, tt.body, 200); n != tt.want {
				t.Errorf("%s: %d", tt.what, n)
			}
		}
		r.balance(mode, "7")
	})
}

// TestKeyOfBrokenAnswer: what was charged for a key and taken back is charged anew.
func TestKeyOfBrokenAnswer(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		p := r.policy("meter = \"m\"\nmode = \"" + mode + "\"")
		for _, broken := range []bool{true, false} {
			x := request(t, "GET https://api.example.com/", "Idempotency-Key: k")
			if _, err := p.Request(x); err != nil {
				t.Fatal(err)
			}
			policytest.Answer(x, 200, "ok")
			if err := p.Response(x); err != nil {
				t.Fatal(err)
			}
			if broken {
				x.Err = exchange.NewFault(exchange.FromUpstream, exchange.BackendReset, "it broke off")
			}
			p.Finish(x)
		}
		r.balance(mode, "1")
	})
}

// TestCacheHits: they cost, or don't, as the block says.
func TestCacheHits(t *testing.T) {
	for _, tt := range []struct{ hits, want string }{{"true", "1"}, {"false", "0"}} {
		r := newRig(t)
		p := r.policy("meter = \"m\"\ncache_hits = " + tt.hits)
		x := request(t, "GET https://api.example.com/")
		r.send(p, x, func() { x.Cached = exchange.CacheCollapsed; policytest.Answer(x, 200, "") })
		r.settled(tt.want)
	}
}

// TestBrokenOff: what the service broke off costs nothing; a client that has left
// pays what it had.
func TestBrokenOff(t *testing.T) {
	for _, tt := range []struct {
		name, units string
		fault       *exchange.Fault
		want        string
	}{
		{"the service, a number", "10", exchange.NewFault(exchange.FromUpstream, exchange.BackendReset, ""), "0"},
		{"the service, bytes", "response.bytes_out", exchange.NewFault(exchange.FromUpstream, exchange.BackendReset, ""), "0"},
		{"the service, at the end", "response.bytes_out", &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: io.ErrUnexpectedEOF}, "0"},
		{"the client, a number", "10", exchange.NewFault(exchange.FromClient, exchange.ClientGone, ""), "10"},
		{"the client, bytes", "response.bytes_out", exchange.NewFault(exchange.FromClient, exchange.ClientGone, ""), "4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			p := r.policy("meter = \"m\"\nestimate = \"1\"\nunits = \"" + tt.units + "\"")
			x := request(t, "GET https://api.example.com/")
			if _, err := p.Request(x); err != nil {
				t.Fatal(err)
			}
			policytest.Answer(x, 200, "0123456789")
			if err := p.Response(x); err != nil {
				t.Fatal(err)
			}
			if _, err := x.ResponseBody.Read(make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			x.Err = tt.fault
			_ = x.ResponseBody.Close()
			p.Finish(x)
			r.settled(tt.want)
		})
	}
}

// TestBeforeTheEnd: no client gets the end of an answer before the disk knows of what
// it costs, however it is read.
func TestBeforeTheEnd(t *testing.T) {
	for _, tt := range []struct {
		name  string
		known bool
		next  bool
	}{{"by Read", true, false}, {"by Read, no length", false, false}, {"by Next", true, true}, {"by Next, no length", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			p := r.policy("meter = \"m\"\nmode = \"event\"\nunits = \"response.bytes_out\"")
			x := request(t, "GET https://api.example.com/")
			if _, err := p.Request(x); err != nil {
				t.Fatal(err)
			}
			policytest.Answer(x, 200, "0123456789")
			if !tt.known {
				x.ResponseLength = -1
			}
			if err := p.Response(x); err != nil {
				t.Fatal(err)
			}
			var got []byte
			buf := make([]byte, 3)
			for end := false; !end && (len(got) < 10 || !tt.known); {
				if b, _ := x.ResponseBody.Next(); tt.next && len(b) > 0 {
					got = append(got, b...)
					continue
				}
				n, err := x.ResponseBody.Read(buf)
				if got = append(got, buf[:n]...); err != nil && err != io.EOF {
					t.Fatal(err)
				}
				end = err == io.EOF
			}
			if string(got) != "0123456789" {
				t.Errorf("got %q", got)
			}
			r.crash() // Finish hasn't run
			r.policy("meter = \"m\"\nmode = \"event\"")
			r.settled("10")
		})
	}
}

// TestDown: what holds while the billing service doesn't answer. In mode event that is
// found out by the first request, which is charged.
func TestDown(t *testing.T) {
	for _, tt := range []struct {
		mode, down string
		served     int // of 20
		charged    string
	}{
		{"reserve", "deny", 0, "0"}, {"reserve", "allow", 5, "0"}, {"reserve", "owe", 5, "5"},
		{"lease", "deny", 0, "0"}, {"lease", "allow", 5, "0"}, {"lease", "owe", 5, "5"},
		{"event", "deny", 0, "1"}, {"event", "allow", 5, "1"}, {"event", "owe", 4, "5"},
	} {
		t.Run(tt.mode+" "+tt.down, func(t *testing.T) { testDown(t, tt.mode, tt.down, tt.served, tt.charged) })
	}
}

func testDown(t *testing.T, mode, down string, served int, charged string) {
	r := newRig(t)
	var up atomic.Bool
	r.billing.Fault = func(*http.Request) chargetest.Fault {
		if up.Load() {
			return chargetest.Fault{}
		}
		return chargetest.Fault{Status: 503}
	}
	block := "meter = \"m\"\nmode = \"" + mode + "\"\nwhen_down = \"" + down + "\""
	if down != "deny" {
		block += "\ncredit = \"5\""
	}
	p := r.policy(block)
	if mode == "event" {
		r.get(p, 200)
		eventually(t, func() error {
			if !p.blocks[0].t.down.Load() {
				return errors.New("it isn't down")
			}
			return nil
		})
	}
	for i := range 20 {
		x := r.get(p, 200)
		if i < served && x.Err != nil || i >= served && (x.Err == nil || x.Err.Kind != exchange.ChargeUnavailable) {
			t.Errorf("request %d: %v; %d are to be served", i, x.Err, served)
		}
	}
	up.Store(true)
	r.settled(charged)
	eventually(t, func() error { // and then it goes on
		if x := r.get(p, 200); x.Err != nil {
			return x.Err
		}
		return nil
	})
}

// TestLostAnswers: what was lost, doubled and delayed is charged once.
func TestLostAnswers(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		n := 0
		var mu sync.Mutex
		r.billing.Fault = func(*http.Request) chargetest.Fault {
			mu.Lock()
			defer mu.Unlock()
			n++
			return chargetest.Fault{Lose: n%3 == 0, Twice: n%5 == 0}
		}
		p := r.policy("meter = \"m\"\nlease = \"7\"\nmode = \"" + mode + "\"")
		served := 0
		for range 60 {
			if x := r.get(p, 200); x.Err == nil {
				served++
			}
		}
		if served < 50 {
			t.Errorf("%d of 60 were served", served)
		}
		if mode == "lease" {
			eventually(t, func() error { // no answer is lost at the farewell
				r.l.mu.Lock()
				defer r.l.mu.Unlock()
				for _, a := range r.l.state.accounts {
					for _, e := range append([]*entry(nil), a.leases...) {
						r.l.giveBack(e)
					}
				}
				for _, e := range r.l.state.entries {
					return fmt.Errorf("%s is %s", e.ID, e.State)
				}
				return nil
			})
		}
		r.balance(mode, fmt.Sprint(served))
	})
}

// TestDeadLetters: what the billing service doesn't take waits for a person, and
// harms nothing else.
func TestDeadLetters(t *testing.T) {
	r := newRig(t)
	var mu sync.Mutex
	reject := true
	r.billing.Reject = func(m *chargetest.Message) string {
		mu.Lock()
		defer mu.Unlock()
		if reject && m.Consumer == "bad" {
			return "who is that?"
		}
		return ""
	}
	p := r.policy("meter = \"m\"\nmode = \"event\"")
	for i := range 9 {
		x := request(t, "GET https://api.example.com/")
		if i == 4 {
			x.Consumer = &exchange.Consumer{Name: "bad"}
		}
		r.send(p, x, func() { policytest.Answer(x, 200, "") })
	}
	eventually(t, func() error {
		if s := r.l.Status(); s.Dead != 1 || s.Pending != 0 {
			return fmt.Errorf("%d dead, %d pending", s.Dead, s.Pending)
		}
		return nil
	})
	r.crash()
	r.policy("meter = \"m\"\nmode = \"event\"")
	list := r.l.List(Query{State: "dead"}).Charges
	if len(list) != 1 || list[0].Reason != "who is that?" || list[0].Consumer != "bad" {
		t.Fatalf("dead letters = %+v", list)
	}
	if _, err := r.l.Retry("nobody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Retry of nobody: %v", err)
	}
	mu.Lock()
	reject = false
	mu.Unlock()
	if n, err := r.l.Retry(list[0].ID); n != 1 || err != nil {
		t.Fatalf("Retry = %d, %v", n, err)
	}
	r.settled("9")
	c, err := r.l.Reconcile("", "", "")
	if err != nil || len(c.Services) != 1 || c.Services[0].Error != "" || len(c.Services[0].Differences) != 0 || c.Services[0].Compared != 2 {
		t.Errorf("Reconcile = %+v, %v", c, err)
	}
}

// TestPoison: a batch that the billing service doesn't take for one message is told
// without it.
func TestPoison(t *testing.T) {
	r := newRig(t)
	inner := r.server.Config.Handler
	r.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		if bytes.Contains(b, []byte(`"poison"`)) {
			http.Error(w, `{"reason": "a consumer of that name"}`, http.StatusUnprocessableEntity)
			return
		}
		q.Body = io.NopCloser(bytes.NewReader(b))
		inner.ServeHTTP(w, q)
	})
	p := r.policy("meter = \"m\"\nmode = \"event\"")
	for i := range 20 {
		x := request(t, "GET https://api.example.com/")
		if i == 13 {
			x.Consumer = &exchange.Consumer{Name: "poison"}
		}
		r.send(p, x, func() { policytest.Answer(x, 200, "") })
	}
	r.settled("19")
	if list := r.l.List(Query{State: "dead"}).Charges; len(list) != 1 || !strings.Contains(list[0].Reason, "422: a consumer of that name") {
		t.Errorf("dead letters = %+v", list)
	}
}

// TestCrash: at each point of an exchange.
func TestCrash(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		block := "meter = \"m\"\nmode = \"" + mode + "\""
		for _, tt := range []struct {
			name  string
			until int
			want  string
		}{{"before the answer", 1, "0"}, {"with its head", 2, "1"}, {"at its end", 3, "1"}} {
			t.Run(tt.name, func(t *testing.T) {
				r := newRig(t)
				p := r.policy(block)
				x := request(t, "GET https://api.example.com/")
				if _, err := p.Request(x); err != nil {
					t.Fatal(err)
				}
				if tt.until > 1 {
					policytest.Answer(x, 200, "")
					if err := p.Response(x); err != nil {
						t.Fatal(err)
					}
				}
				if tt.until > 2 {
					p.Finish(x)
				}
				r.crash()
				r.policy(block)
				r.balance(mode, tt.want)
			})
		}
	})
}
