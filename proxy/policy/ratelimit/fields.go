package ratelimit

import (
	"strconv"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// appendPolicy appends a limit: q requests in w seconds. That is the burst and
// the time in which it comes back; where that is less than a second, as many as
// come in one second.
func appendPolicy(b []byte, name string, r *exchange.Rate) []byte {
	quota, window := r.Burst, time.Duration(r.Burst)*r.Interval
	if window < time.Second {
		quota, window = max(r.Burst, r.Count*int64(time.Second)/int64(r.Per)), time.Second
	}
	b = append(append(append(b, '"'), name...), `";q=`...)
	b = strconv.AppendInt(b, quota, 10)
	b = append(b, ";w="...)
	return strconv.AppendInt(b, seconds(window), 10)
}

// appendLeft appends what is left of a limit: r requests now, and t seconds
// until there are more: one, when there is none, else all.
func appendLeft(b []byte, name string, full, now moment, r *exchange.Rate) []byte {
	n := left(full, now, r)
	t := seconds(time.Duration(max(full-now, 0)))
	if n == 0 {
		t = max(1, seconds(wait(full, now, r, 1)))
	}
	b = append(append(append(b, '"'), name...), `";r=`...)
	b = strconv.AppendInt(b, n, 10)
	b = append(b, ";t="...)
	return strconv.AppendInt(b, t, 10)
}

// comma separates the items of a list.
func comma(b []byte) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	return b
}
