package quota

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// startOf is when the period of t began, in seconds since 1970.
func startOf(p exchange.Period, t time.Time) int64 {
	switch p {
	case exchange.Hour:
		return floor(t.Unix(), 3600)
	case exchange.Day:
		return floor(t.Unix(), 24*3600) // UTC: a day has no other length
	default:
		year, month, _ := t.UTC().Date()
		return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Unix()
	}
}

func floor(n, step int64) int64 { return n - (n%step+step)%step }

// endOf is when the period that began at start ends.
func endOf(p exchange.Period, start int64) int64 {
	switch p {
	case exchange.Hour:
		return start + 3600
	case exchange.Day:
		return start + 24*3600
	default:
		return time.Unix(start, 0).UTC().AddDate(0, 1, 0).Unix()
	}
}

// span is a period that was looked up.
type span struct{ start, end int64 }

// now is startOf that remembers the last answer: one for all requests of a
// period.
func (s *Store) now(p exchange.Period, t time.Time) int64 {
	sec := t.Unix()
	if last := s.spans[p].Load(); last != nil && sec >= last.start && sec < last.end {
		return last.start
	}
	start := startOf(p, t)
	s.spans[p].Store(&span{start, endOf(p, start)})
	return start
}

// Until is the end of the period that is going on.
func Until(p exchange.Period, now time.Time) time.Time {
	return time.Unix(endOf(p, startOf(p, now)), 0).UTC()
}
