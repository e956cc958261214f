package personal

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/block"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	"github.com/sidegate-proxy/sidegate/proxy/policy/request"
	"github.com/sidegate-proxy/sidegate/proxy/policy/response"
)

func sets(t *testing.T) *Policy {
	t.Helper()
	p := New()
	office := policytest.Policy(t, block.Kind(block.Files{}), `block { allow = ["192.0.2.0/24"] }`)
	marked := policytest.Policy(t, request.Kind(), `request { set = { "X-Marked" = "{consumer.name}" } }`)
	for name, set := range map[string][]policy.Named{
		"office": {{Name: "block", Policy: office}},
		"marked": {{Name: "request", Policy: marked}},
	} {
		if err := p.Add(name, set, true); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestRequest(t *testing.T) {
	p := sets(t)
	gold := &exchange.Plan{Name: "gold", Use: []string{"marked"}}
	lost := &exchange.Plan{Name: "lost", Use: []string{"gone"}}
	for _, tt := range []struct {
		name     string
		consumer *exchange.Consumer
		client   string
		want     string // why it is refused
		marked   bool
		says     string
	}{
		{"nobody", nil, "198.51.100.1", "", false, "none"},
		{"nothing", &exchange.Consumer{Name: "a"}, "198.51.100.1", "", false, "none"},
		{"its own", &exchange.Consumer{Name: "a", Use: []string{"office"}}, "192.0.2.7", "", false, "admits"},
		{"its own refuses", &exchange.Consumer{Name: "a", Use: []string{"office"}}, "198.51.100.1", "forbidden: block: the address isn't among those in allow", false, "refuses"},
		{"its plan's", &exchange.Consumer{Name: "a", Plan: gold}, "198.51.100.1", "", true, "request: "},
		{"both", &exchange.Consumer{Name: "a", Plan: gold, Use: []string{"office"}}, "192.0.2.7", "", true, "; block: "},
		{"both, the plan's first", &exchange.Consumer{Name: "a", Plan: gold, Use: []string{"office"}}, "198.51.100.1", "forbidden: block: the address isn't among those in allow", true, "refuses"},
		{"not there", &exchange.Consumer{Name: "a", Use: []string{"gone", "marked"}}, "192.0.2.7", `forbidden: consumer "a" uses the policy "gone", which there isn't for consumers`, false, `refuses: there is no policy "gone"`},
		{"not there in the plan", &exchange.Consumer{Name: "a", Plan: lost, Use: []string{"marked"}}, "192.0.2.7", `forbidden: consumer "a" uses the policy "gone", which there isn't for consumers`, false, `refuses: there is no policy "gone"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := policytest.Exchange(t, "GET https://a.test/")
			x.Consumer, x.ClientIP = tt.consumer, netip.MustParseAddr(tt.client)
			if said := p.Test(x); !strings.Contains(said, tt.says) {
				t.Errorf("Test = %q, want %q in it", said, tt.says)
			}
			verdict, err := p.Request(x)
			why := ""
			if err != nil {
				why = err.Error()
			}
			if why != tt.want || (verdict == policy.Next) != (tt.want == "") {
				t.Errorf("Request = %v, %q, want %q", verdict, why, tt.want)
			}
			if got := slices.Contains(policytest.Sent(&x.Request, &x.RequestEdits), "X-Marked: a"); got != tt.marked {
				t.Errorf("the plan's policies ran: %v, want %v", got, tt.marked)
			}
		})
	}
}

// TestMarks: what the policies of some consumers tell the backend, no other client
// tells it of itself.
func TestMarks(t *testing.T) {
	p := New()
	add := func(name string, own bool, block string) {
		t.Helper()
		set := []policy.Named{{Name: "request", Policy: policytest.Policy(t, request.Kind(), block)}}
		if err := p.Add(name, set, own); err != nil {
			t.Fatal(err)
		}
	}
	add("gold", true, `request { set = { "X-Tier" = "gold", "Accept" = "text/plain", "X-User" = "{consumer.name}" } }`)
	add("routes", false, `request { set = { "X-Version" = "1", "Authorization" = "Bearer {claims.token}" } }`)
	sent := func(c *exchange.Consumer) []string {
		x := policytest.Exchange(t, "GET https://a.test/", "x-tier: root", "X-USER: root", "Accept: */*", "X-Version: 2", "Authorization: root", "X-Groups: root")
		x.RequestEdits.Set("X-Groups", "of auth")
		x.Consumer = c
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
		if x.RequestEdits.MayTrail("X-Tier", exchange.Other) {
			t.Error("the mark may come as a trailer")
		}
		list := policytest.Sent(&x.Request, &x.RequestEdits)
		slices.Sort(list)
		return list
	}
	gold := &exchange.Consumer{Name: "a", Use: []string{"gold"}}
	for _, tt := range []struct {
		consumer *exchange.Consumer
		want     []string
	}{
		{nil, []string{"Accept: */*", "X-Groups: of auth", "X-Version: 2"}},
		{&exchange.Consumer{Name: "b"}, []string{"Accept: */*", "X-Groups: of auth", "X-Version: 2"}},
		{gold, []string{"Accept: text/plain", "X-Groups: of auth", "X-Tier: gold", "X-User: a", "X-Version: 2"}},
	} {
		if got := sent(tt.consumer); !slices.Equal(got, tt.want) {
			t.Errorf("sent %q, want %q", got, tt.want)
		}
	}
}

// TestAdd: only what looks at requests alone, behind auth, is for consumers.
func TestAdd(t *testing.T) {
	for want, n := range map[string]policy.Named{
		"response can't be a consumer's": {Name: "response", Policy: policytest.Policy(t, response.Kind(), `response { remove = ["Server"] }`)},
		"ban can't be a consumer's":      {Name: "ban", Policy: policytest.Policy(t, ban.Kind(nil), `ban {}`)},
		"{id} is neither":                {Name: "request", Policy: policytest.Policy(t, request.Kind(), `request { set = { "X-Id" = "{id}" } }`)},
	} {
		if err := New().Add("s", []policy.Named{n}, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Add = %v, want %q", err, want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	p := sets(t)
	store := ratelimit.NewStore(ratelimit.StoreConfig{Memory: 1 << 16})
	limit := policytest.Policy(t, ratelimit.Kind(ratelimit.Deps{Store: store}), "rate_limit {\n rate = \"1000000/s\"\n by = \"consumer\"\n}")
	if err := p.Add("limited", []policy.Named{{Name: "rate_limit", Policy: limit}}, true); err != nil {
		t.Fatal(err)
	}
	c := &exchange.Consumer{Name: "a", Plan: &exchange.Plan{Use: []string{"limited"}}, Use: []string{"office"}}
	x := policytest.Exchange(t, "GET https://a.test/")
	x.Consumer, x.ClientIP = c, netip.MustParseAddr("192.0.2.7")
	if n := testing.AllocsPerRun(100, func() {
		x.ResponseEdits.Reset()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
