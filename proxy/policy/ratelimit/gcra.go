package ratelimit

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// moment is a time in nanoseconds of the monotonic clock, since the store's
// beginning. A bucket's moment is when it will be full again; one that is past
// says that it is.
type moment int64

// admit decides about one request of that cost at now, for a bucket that will be
// full at full: when it will be full afterwards, and whether the request passes.
// The cost is at most the burst.
func admit(full, now moment, r *exchange.Rate, cost int64) (moment, bool) {
	full = max(full, now)
	if full-now > moment(r.Interval)*moment(r.Burst-cost) {
		return full, false
	}
	return full + moment(r.Interval)*moment(cost), true
}

// left is how much a bucket has at now.
func left(full, now moment, r *exchange.Rate) int64 {
	room := moment(r.Interval)*moment(r.Burst) - max(full-now, 0)
	return max(int64(room/moment(r.Interval)), 0)
}

// wait is how long a bucket that doesn't admit that cost at now takes until it
// does.
func wait(full, now moment, r *exchange.Rate, cost int64) time.Duration {
	return time.Duration(max(full-now-moment(r.Interval)*moment(r.Burst-cost), 0))
}

// seconds is d in whole seconds, as fields of HTTP count: rounded up, so that
// who waits that long comes late enough.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
