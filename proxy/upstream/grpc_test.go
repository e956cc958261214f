package upstream

import (
	"errors"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func TestOutOfTime(t *testing.T) {
	tests := []struct {
		name, timeout string
		elapsed       time.Duration
		kind, want    exchange.Kind
	}{
		{"passed", "1m", 2 * time.Millisecond, exchange.BackendReset, exchange.DeadlineExceeded},
		{"seconds, passed", "2S", 3 * time.Second, exchange.BackendReset, exchange.DeadlineExceeded},
		{"nanoseconds, passed", "99999999n", time.Second, exchange.BackendReset, exchange.DeadlineExceeded},
		{"not passed", "1M", time.Second, exchange.BackendReset, exchange.BackendReset},
		{"hours that don't fit", "99999999H", time.Hour, exchange.BackendReset, exchange.BackendReset},
		{"no gRPC", "", time.Hour, exchange.BackendReset, exchange.BackendReset},
		{"no unit", "10", time.Hour, exchange.BackendReset, exchange.BackendReset},
		{"no number", "m", time.Hour, exchange.BackendReset, exchange.BackendReset},
		{"too long", "123456789m", time.Hour, exchange.BackendReset, exchange.BackendReset},
		{"negative", "-1m", time.Hour, exchange.BackendReset, exchange.BackendReset},
		{"another fault", "1m", time.Hour, exchange.BackendMalformed, exchange.BackendMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := &exchange.Exchange{Start: time.Now().Add(-tt.elapsed)}
			if tt.timeout != "" {
				x.Request.Append("Grpc-Timeout", tt.timeout)
			}
			was := exchange.NewFault(exchange.FromUpstream, tt.kind, "reset")
			got := outOfTime(x, was)
			if got.Kind != tt.want || !errors.Is(got, was) {
				t.Errorf("outOfTime = %v, want a %s of %v", got, tt.want, was)
			}
			if got != was && got.Source != exchange.FromClient {
				t.Errorf("source = %v: the instance would be blamed", got.Source)
			}
		})
	}
}
