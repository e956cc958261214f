package proxy

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// caller is a policy that finds out who is calling.
type caller struct{ consumer *exchange.Consumer }

func (c caller) Request(x *exchange.Exchange) (policy.Verdict, error) {
	x.Consumer = c.consumer
	return policy.Next, nil
}

// TestMemory: who is refused, by how much memory there is. Nobody listens
// where the service should be: who is let in learns of that.
func TestMemory(t *testing.T) {
	group := upstream.NewGroup(upstream.Deps{
		Log: quiet(), Sweeper: sweep.New(),
		Sources: func(*upstream.Config) (discovery.Source, discovery.Query, error) {
			return single("127.0.0.1:1"), discovery.Query{}, nil
		},
	})
	t.Cleanup(func() { group.Close(context.Background()) })
	plan, err := group.Plan([]*upstream.Config{{Name: "s"}})
	if err != nil {
		t.Fatal(err)
	}
	plan.Commit()
	wait, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	group.Wait(wait)
	var used int64
	guard := memory.NewGuard(memory.Deps{Log: quiet(), Root: t.TempDir(), Used: func() int64 { return used }}, 100)
	h := NewHandler(Deps{Log: quiet(), Stats: NewStats(), Memory: guard, Challenge: func(string, string) (string, bool) { return "proof", true }})
	serve := func(p exchange.Priority, c *exchange.Consumer, answer policy.Requester, path string) (int, string) {
		r := &Route{Name: "r", Priority: p, Answer: answer, Stats: h.Stats.Route("r", ""), Chain: policy.Compile([]policy.Named{{Name: "auth", Policy: caller{c}}})}
		if answer == nil {
			r.Shares = []Share{{Service: "s", Pool: plan.Pool("s"), Upto: 1, Stats: h.Stats.Route("r", "s")}}
		}
		m, err := route.Compile([]route.Rule{{Name: "r", Hosts: []string{"a.test"}}})
		if err != nil {
			t.Fatal(err)
		}
		h.SetTable(&Table{Matcher: m, Routes: []*Route{r}})
		rec, x := &recorder{}, &exchange.Exchange{}
		x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: "http", Remote: netip.MustParseAddrPort("192.0.2.1:1"), RemoteIP: "192.0.2.1"}, rec)
		x.Start, x.Method, x.RawTarget, x.RawHost = time.Now(), "GET", path, "a.test"
		h.Serve(x)
		kind, _, _ := strings.Cut(strings.TrimPrefix(rec.body, `{"type":"urn:sidegate:problem:`), `"`)
		if rec.status == 503 && rec.headers["retry-after"] == "" {
			t.Error("503 without Retry-After")
		}
		return rec.status, kind
	}
	const in, out = "backend-unreachable", "gateway-overloaded"
	low, high := &exchange.Consumer{Name: "l", Priority: exchange.LowPriority}, &exchange.Consumer{Name: "h", Priority: exchange.HighPriority}
	for _, tt := range []struct {
		used           int64
		route          exchange.Priority
		consumer       *exchange.Consumer
		want           string
		scarce, filled uint64 // refused, in all
	}{
		{84, exchange.LowPriority, nil, in, 0, 0},
		{85, exchange.LowPriority, nil, out, 1, 0},
		{85, exchange.NormalPriority, nil, in, 1, 0},
		{85, exchange.LowPriority, high, in, 1, 0},
		{85, exchange.HighPriority, low, out, 2, 0},
		{95, exchange.HighPriority, high, out, 2, 1},
	} {
		used = tt.used
		guard.Look()
		if _, kind := serve(tt.route, tt.consumer, nil, "/"); kind != tt.want {
			t.Errorf("%d %%, route %v, consumer %v: %s, want %s", tt.used, tt.route, tt.consumer, kind, tt.want)
		}
		if st := guard.Status(); st.RefusedScarce != tt.scarce || st.RefusedFull != tt.filled {
			t.Errorf("%d %%: %+v", tt.used, st)
		}
	}
	answer := answerer(func(x *exchange.Exchange) { x.Reply(200, "", nil) })
	if status, _ := serve(exchange.HighPriority, nil, answer, "/"); status != 503 {
		t.Errorf("an answer of the gateway's own while memory is full: %d", status)
	}
	if status, _ := serve(exchange.HighPriority, nil, answer, challengePrefix+"x"); status != 200 {
		t.Errorf("a challenge of the certificate authority while memory is full: %d", status)
	}
}
