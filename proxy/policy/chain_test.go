package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// log is what happened, in order.
type log struct{ lines []string }

func (l *log) add(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// full has all phases.
type full struct {
	*log
	name    string
	verdict Verdict
	err     error
	respErr error
	panics  bool
}

func (p *full) Request(*exchange.Exchange) (Verdict, error) {
	p.add("request %s", p.name)
	if p.panics {
		panic(p.name)
	}
	return p.verdict, p.err
}
func (p *full) Response(*exchange.Exchange) error { p.add("response %s", p.name); return p.respErr }
func (p *full) Finish(*exchange.Exchange)         { p.add("finish %s", p.name) }
func (p *full) Explain() string                   { return "does " + p.name }
func (p *full) Params() []string                  { return []string{"id"} }

// late has no request part.
type late struct {
	*log
	name string
}

func (p *late) Response(*exchange.Exchange) error { p.add("response %s", p.name); return nil }
func (p *late) Finish(*exchange.Exchange)         { p.add("finish %s", p.name) }

// asks has a request part only.
type asks struct {
	*log
	name string
}

func (p *asks) Request(*exchange.Exchange) (Verdict, error) {
	p.add("request %s", p.name)
	return Next, nil
}

func TestChain(t *testing.T) {
	fault := exchange.NewFault(exchange.FromPolicy, exchange.RouteEnded, "over")
	tests := []struct {
		name    string
		b       full
		verdict Verdict
		seen    int
		err     string
		want    string
	}{
		{"all", full{}, Next, 5, "", "request a,request b,request c,request e,response e,response d,response b,response a,finish e,finish d,finish b,finish a"},
		{"done", full{verdict: Done}, Done, 2, "", "request a,request b,response d,response b,response a,finish d,finish b,finish a"},
		{"fault", full{err: fault}, Done, 2, "route-ended: over", "request a,request b,response d,response b,response a,finish d,finish b,finish a"},
		{"error", full{err: errors.New("broken")}, Done, 2, "policy b-policy: broken", "request a,request b,response d,response b,response a,finish d,finish b,finish a"},
		{"panic", full{panics: true}, Next, 2, "panic", "request a,request b,response d,response b,response a,finish d,finish b,finish a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := &log{}
			b := tt.b
			b.log, b.name = l, "b"
			c := Compile([]Named{
				{"a-policy", &full{log: l, name: "a"}}, {"b-policy", &b}, {"c-policy", &asks{l, "c"}}, {"d-policy", &late{l, "d"}}, {"e-policy", &full{log: l, name: "e"}},
			})
			x := &exchange.Exchange{}
			verdict, seen, err := func() (v Verdict, seen int, err error) {
				defer func() {
					if recover() != nil {
						seen, err = x.Seen, errors.New("panic")
					}
				}()
				return c.Request(x)
			}()
			if verdict != tt.verdict || seen != tt.seen || x.Seen != seen || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("Request = %v, %d (x.Seen %d), %v, want %v, %d, %q", verdict, seen, x.Seen, err, tt.verdict, tt.seen, tt.err)
			}
			if tt.name == "fault" && err != error(fault) {
				t.Error("a fault doesn't stay what it is")
			}
			if err := c.Response(x, seen); err != nil {
				t.Errorf("Response: %v", err)
			}
			c.Finish(x, seen)
			if d := cmp.Diff(tt.want, strings.Join(l.lines, ",")); d != "" {
				t.Error(d)
			}
		})
	}
}

// every sees every response.
type every struct{ full }

func (*every) EveryResponse() {}

// TestChainEvery: a policy may see responses to requests that were refused before
// it; its other parts don't.
func TestChainEvery(t *testing.T) {
	l := &log{}
	c := Compile([]Named{
		{"a", &full{log: l, name: "a", verdict: Done}}, {"b", &every{full{log: l, name: "b"}}}, {"c", &full{log: l, name: "c"}},
	})
	x := &exchange.Exchange{}
	_, seen, _ := c.Request(x)
	if err := c.Response(x, seen); err != nil {
		t.Fatal(err)
	}
	c.Finish(x, seen)
	if d := cmp.Diff("request a,response b,response a,finish a", strings.Join(l.lines, ",")); d != "" {
		t.Error(d)
	}
}

func TestChainResponseErrors(t *testing.T) {
	l := &log{}
	fault := exchange.NewFault(exchange.FromPolicy, exchange.Internal, "no")
	c := Compile([]Named{{"a", &full{log: l, name: "a", respErr: fault}}, {"b", &full{log: l, name: "b", respErr: errors.New("broken")}}})
	x := &exchange.Exchange{}
	_, seen, _ := c.Request(x)
	err := c.Response(x, seen)
	if err == nil || !errors.Is(err, fault) || !strings.Contains(err.Error(), "policy b: broken") {
		t.Errorf("Response = %v, want both errors", err)
	}
	if got := strings.Join(l.lines, ","); got != "request a,request b,response b,response a" {
		t.Errorf("ran %s", got)
	}
}

func TestChainEmpty(t *testing.T) {
	c := Compile(nil)
	x := &exchange.Exchange{}
	if v, seen, err := c.Request(x); v != Next || seen != 0 || err != nil {
		t.Errorf("Request = %v, %d, %v", v, seen, err)
	}
	if err := c.Response(x, 0); err != nil {
		t.Error(err)
	}
	c.Finish(x, 0)
	if len(c.Explain()) != 0 {
		t.Errorf("Explain = %q", c.Explain())
	}
}

func TestChainExplain(t *testing.T) {
	l := &log{}
	c := Compile([]Named{{"cors", &full{log: l, name: "cors"}}, {"auth jwt", &asks{l, "x"}}})
	if d := cmp.Diff([]string{"cors: does cors", "auth jwt"}, c.Explain()); d != "" {
		t.Error(d)
	}
	if err := c.CheckParams([]string{"id"}); err != nil {
		t.Errorf("CheckParams = %v", err)
	}
	want := "policy cors: {id} is neither a known placeholder nor a parameter of the route's paths"
	if err := c.CheckParams([]string{"name"}); err == nil || err.Error() != want {
		t.Errorf("CheckParams = %v, want %q", err, want)
	}
}

func TestChainNoAllocations(t *testing.T) {
	c := Compile([]Named{{"a", pass{}}, {"b", pass{}}})
	x := &exchange.Exchange{}
	if n := testing.AllocsPerRun(100, func() {
		_, seen, _ := c.Request(x)
		_ = c.Response(x, seen)
		c.Finish(x, seen)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// pass does nothing in all phases.
type pass struct{}

func (pass) Request(*exchange.Exchange) (Verdict, error) { return Next, nil }
func (pass) Response(*exchange.Exchange) error           { return nil }
func (pass) Finish(*exchange.Exchange)                   {}

// codes is an Encoder with all that one may have.
type codes struct{ *log }

func (p *codes) Request(*exchange.Exchange) (Verdict, error) {
	p.add("request codes")
	return Next, nil
}
func (p *codes) Encode(*exchange.Exchange) { p.add("encode") }
func (p *codes) Finish(*exchange.Exchange) { p.add("finish codes") }

// TestChainEncode: encoding is for every exchange, refused or not, and so is its
// end; that a policy has a request part doesn't change it.
func TestChainEncode(t *testing.T) {
	l := &log{}
	c := Compile([]Named{{"a", &full{log: l, name: "a", verdict: Done}}, {"codes", &codes{l}}})
	x := &exchange.Exchange{}
	_, seen, err := c.Request(x)
	if err = errors.Join(err, c.Response(x, seen)); err != nil {
		t.Fatal(err)
	}
	c.Encode(x)
	c.Finish(x, seen)
	want := []string{"request a", "response a", "encode", "finish codes", "finish a"}
	if d := cmp.Diff(want, l.lines); d != "" {
		t.Error(d)
	}
	Compile(nil).Encode(x) // no more than nothing
}
