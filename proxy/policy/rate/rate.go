// Package rate reads rates and quotas as the configuration writes them, "100/s"
// and "1000000/month", and puts what is left of them into answers. Counting is
// for others. It starts no goroutine.
package rate

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Bounds of a rate. With them no sum of times overflows, and rounding an
// interval up to a nanosecond costs at most one request in a hundred.
const (
	maxPerSecond = 10_000_000
	maxBurst     = 1_000_000_000
	maxFill      = 10 * 365 * 24 * time.Hour // from nothing to a whole burst
)

// Parse reads a rate: a number, a slash, and s, m, h or day. Burst is how many
// may come at once; 0 is as many as come in one second, and one at least.
func Parse(text string, burst int) (exchange.Rate, error) {
	number, unit, ok := strings.Cut(text, "/")
	count, err := strconv.ParseUint(number, 10, 62)
	if !ok || err != nil {
		return exchange.Rate{}, fmt.Errorf("%.40q isn't a rate, such as \"100/s\", \"5000/m\" or \"20000/day\"", text)
	}
	per, err := period(unit)
	if err != nil {
		return exchange.Rate{}, fmt.Errorf("%.40q: %w", text, err)
	}
	r := exchange.Rate{Count: int64(count), Per: per, Burst: int64(burst)}
	switch {
	case count == 0:
		return r, fmt.Errorf("%q lets nothing pass", text)
	case count > maxPerSecond*uint64(per/time.Second):
		return r, fmt.Errorf("%.40q is more than %d/s", text, maxPerSecond)
	}
	// Rounded up, so that never more passes than was written.
	r.Interval = (per + time.Duration(r.Count) - 1) / time.Duration(r.Count)
	if burst == 0 {
		r.Burst = max(1, int64((time.Second+r.Interval-1)/r.Interval))
	}
	if r.Burst > MaxBurst(r.Interval) {
		return r, fmt.Errorf("%.40q: a burst of %d would take more than ten years", text, r.Burst)
	}
	return r, nil
}

// MaxBurst is the most that a burst can be at that interval.
func MaxBurst(interval time.Duration) int64 { return min(maxBurst, int64(maxFill/interval)) }

func period(unit string) (time.Duration, error) {
	switch unit {
	case "s":
		return time.Second, nil
	case "m":
		return time.Minute, nil
	case "h":
		return time.Hour, nil
	case "day":
		return 24 * time.Hour, nil
	case "month":
		return 0, errors.New("a month has no fixed length; a rate is by s, m, h or day")
	default:
		return 0, errors.New("a rate is by s, m, h or day")
	}
}

// Text is r as the configuration writes it.
func Text(r exchange.Rate) string {
	unit := "s"
	switch r.Per {
	case time.Minute:
		unit = "m"
	case time.Hour:
		unit = "h"
	case 24 * time.Hour:
		unit = "day"
	}
	return strconv.FormatInt(r.Count, 10) + "/" + unit
}
