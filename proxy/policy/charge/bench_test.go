package charge

import (
	"context"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// BenchmarkCharge is all that a request costs here, the disk and telling included,
// with 64 at a time.
func BenchmarkCharge(b *testing.B) {
	for _, mode := range modes {
		b.Run(mode, func(b *testing.B) {
			l := NewLedger(Deps{Log: quiet(), Path: b.TempDir()})
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); l.Run(ctx) }()
			plan := l.Plan()
			kind := Kind(Means{Ledger: l, Plan: plan})
			p := policytest.Policy(b, kind, "charge {\n service = \"s\"\n meter = \"m\"\n lease = \"100000\"\n mode = \""+mode+"\"\n}").(*Policy)
			plan.Connect(func(string) Caller { return func(*Call) (*Answer, error) { return &Answer{Status: 200}, nil } })
			plan.Commit()
			b.SetParallelism(32)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				x := request(b, "GET https://api.example.com/")
				for pb.Next() {
					if _, err := p.Request(x); err != nil {
						b.Error(err)
						return
					}
					policytest.Answer(x, 200, "")
					if err := p.Response(x); err != nil {
						b.Error(err)
					}
					p.Finish(x)
				}
			})
			b.StopTimer()
			cancel()
			<-done
		})
	}
}
