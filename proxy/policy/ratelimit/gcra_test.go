package ratelimit

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/rate"
)

func parse(tb testing.TB, text string, burst int) *exchange.Rate {
	tb.Helper()
	r, err := rate.Parse(text, burst)
	if err != nil {
		tb.Fatal(err)
	}
	return &r
}

func TestAdmit(t *testing.T) {
	r := parse(t, "10/s", 3)
	const ms = moment(time.Millisecond)
	var full moment
	steps := []struct {
		now  moment
		ok   bool
		left int64
		wait time.Duration
	}{
		{1000 * ms, true, 2, 0},
		{1000 * ms, true, 1, 0},
		{1000 * ms, true, 0, 100 * time.Millisecond},
		{1000 * ms, false, 0, 100 * time.Millisecond},
		{1099 * ms, false, 0, time.Millisecond},
		{1100 * ms, true, 0, 100 * time.Millisecond},
		{1050 * ms, false, 0, 150 * time.Millisecond}, // a request that began earlier
		{1350 * ms, true, 1, 0},
		{9000 * ms, true, 2, 0},
	}
	for i, s := range steps {
		next, ok := admit(full, s.now, r, 1)
		if ok {
			full = next
		}
		if ok != s.ok || left(full, s.now, r) != s.left || wait(full, s.now, r, 1) != s.wait {
			t.Errorf("step %d: ok %v, left %d, wait %v, want %+v", i, ok, left(full, s.now, r), wait(full, s.now, r, 1), s)
		}
	}
	for d, want := range map[time.Duration]int64{0: 0, 1: 1, time.Second: 1, time.Second + 1: 2} {
		if got := seconds(d); got != want {
			t.Errorf("seconds(%v) = %d, want %d", d, got, want)
		}
	}
}

// TestAdmitNever: in no window do more pass than rate × time + burst, whatever
// the rate and however the requests come; and what is within the rate passes.
func TestAdmitNever(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, text := range []string{"1/s", "3/s", "7/m", "999/s", "1000000/s", "10000000/s", "7000003/s", "11/h", "100000/day"} {
		for _, burst := range []int{1, 2, 17} {
			r := parse(t, text, burst)
			var full moment
			now := moment(time.Second)
			var admitted []moment
			for range 3000 {
				now += moment(random.Int64N(2 * int64(r.Interval)))
				next, ok := admit(full, now, r, 1)
				if ok {
					full = next
					admitted = append(admitted, now)
				}
			}
			for from := 0; from < len(admitted); from += 37 {
				for to := from; to < len(admitted); to++ {
					// n > rate × time + burst, without rounding.
					n, span := int64(to-from+1), int64(admitted[to]-admitted[from])
					if over := n - int64(burst); over > 0 && float64(over)*float64(r.Per) > float64(span)*float64(r.Count)+1 {
						t.Fatalf("%s, burst %d: %d requests in %v", text, burst, n, time.Duration(span))
					}
				}
			}
			// At exactly the rate nobody is refused.
			for range 1000 {
				now += moment(r.Interval)
				next, ok := admit(max(full, now), now, r, 1)
				if full = next; !ok {
					t.Fatalf("%s, burst %d: refused within the rate", text, burst)
				}
				full = min(full, now+moment(r.Interval))
			}
		}
	}
}
