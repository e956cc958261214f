package policy

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// waits takes its time in both parts.
type waits struct{ d time.Duration }

func (w waits) Request(*exchange.Exchange) (Verdict, error) { time.Sleep(w.d); return Next, nil }
func (w waits) Response(*exchange.Exchange) error           { time.Sleep(w.d); return nil }

// TestChainTraced: a traced exchange is served as any other, and what took time, or
// ended it, is recorded.
func TestChainTraced(t *testing.T) {
	fault := exchange.NewFault(exchange.FromPolicy, exchange.RouteEnded, "over")
	for _, tt := range []struct {
		name string
		last full
		want []exchange.Span
	}{
		{"refused", full{err: fault}, []exchange.Span{{Policy: "slow"}, {Policy: "last", Fault: exchange.RouteEnded}, {Policy: "slow", Response: true}}},
		{"failed", full{err: errors.New("broken")}, []exchange.Span{{Policy: "slow"}, {Policy: "last", Fault: exchange.Internal}, {Policy: "slow", Response: true}}},
		{"answered", full{verdict: Done}, []exchange.Span{{Policy: "slow"}, {Policy: "last"}, {Policy: "slow", Response: true}}},
		{"late", full{respErr: fault}, []exchange.Span{{Policy: "slow"}, {Policy: "last", Response: true, Fault: exchange.RouteEnded}, {Policy: "slow", Response: true}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.last.log = &log{}
			c := Compile([]Named{{"slow", waits{2 * notable}}, {"quick", pass{}}, {"last", &tt.last}})
			plain, x := &exchange.Exchange{Start: time.Now()}, &exchange.Exchange{Start: time.Now()}
			x.Trace.Spans = &exchange.Spans{}
			v, seen, err := c.Request(plain)
			tv, tseen, terr := c.Request(x)
			if v != tv || seen != tseen || x.Seen != plain.Seen || (err == nil) != (terr == nil) || err != nil && err.Error() != terr.Error() {
				t.Errorf("traced %v, %d, %v, else %v, %d, %v", tv, tseen, terr, v, seen, err)
			}
			_ = c.Response(x, tseen) // its error is tested elsewhere
			var got []exchange.Span
			for _, s := range x.Trace.Spans.List {
				if s.ID == [8]byte{} || s.End < s.Start {
					t.Errorf("%+v", s)
				}
				s.ID, s.Start, s.End = [8]byte{}, 0, 0
				// On a slow machine what does nothing takes notable time, too.
				if slices.ContainsFunc(tt.want, func(w exchange.Span) bool { return w == s }) {
					got = append(got, s)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
