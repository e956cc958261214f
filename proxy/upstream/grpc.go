package upstream

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// outOfTime is f, or what it means when a gRPC client's own time is up: servers
// then reset the stream, and their reset may be here before the client has
// noticed. It is no fault of theirs, and the client waits for this answer.
func outOfTime(x *exchange.Exchange, f *exchange.Fault) *exchange.Fault {
	if f.Kind != exchange.BackendReset {
		return f
	}
	text, _ := x.Request.Find("grpc-timeout")
	limit, ok := grpcTimeout(text)
	if !ok || time.Since(x.Start) < limit {
		return f
	}
	return exchange.NewFault(exchange.FromClient, exchange.DeadlineExceeded, "the client's grpc-timeout of %s has passed: %w", limit, f)
}

// grpcTimeout reads a Timeout of gRPC over HTTP/2: at most eight digits and a
// unit.
func grpcTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n := time.Duration(0)
	for i := range len(s) - 1 {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + time.Duration(s[i]-'0')
	}
	switch s[len(s)-1] {
	case 'n':
		return n, true
	case 'u':
		return n * time.Microsecond, true
	case 'm':
		return n * time.Millisecond, true
	case 'S':
		return n * time.Second, true
	case 'M':
		return n * time.Minute, true
	case 'H': // 99,999,999 of them don't fit
		return min(n, 1e6) * time.Hour, true
	default:
		return 0, false
	}
}
