package balance

import (
	"testing"
	"time"
)

// oneAfterAnother lets one request follow another every gap, as one client's
// would, and returns which endpoint each went to. latency says how long the nth
// answer of endpoint k takes.
func oneAfterAnother(p Picker, set []Endpoint, requests int, gap time.Duration, latency func(k, n int) time.Duration) []int {
	now, answers, order := second, make([]int, len(set)), make([]int, requests)
	for i := range order {
		k := p.Pick(0, now, nil)
		order[i] = k
		set[k].Stats.Acquire()
		d := latency(k, answers[k])
		answers[k]++
		set[k].Stats.Observe(d, now+int64(d))
		set[k].Stats.Release()
		now += int64(gap)
	}
	return order
}

func count(order []int, k int) (n int) {
	for _, got := range order {
		if got == k {
			n++
		}
	}
	return n
}

const (
	usual = 300 * time.Microsecond
	gap   = 20 * time.Millisecond
)

// TestEWMAColdAnswers: the first answers of an instance that is as fast as the
// others may be slow, since connections are made and caches filled.
func TestEWMAColdAnswers(t *testing.T) {
	for slow := 1; slow < coldAnswers; slow++ {
		set := testSet(1, 1, 1)
		order := oneAfterAnother(mustNew(t, "ewma", set).Build(set), set, 90, gap, func(k, n int) time.Duration {
			if k == 0 && n < slow {
				return 50 * usual
			}
			return usual
		})
		for k := range set {
			if n := count(order, k); n < 15 {
				t.Errorf("%d slow answers at first: instance %d got %d of 90 requests", slow, k, n)
			}
		}
	}
}

// TestEWMAOneSlowAnswer: after one slow answer an instance is left alone, but
// not for so long that nobody knows it has recovered.
func TestEWMAOneSlowAnswer(t *testing.T) {
	const at, slowness = 10, 10 * time.Millisecond // due again after a second
	set := testSet(1, 1, 1)
	order := oneAfterAnother(mustNew(t, "ewma", set).Build(set), set, 1000, gap, func(k, n int) time.Duration {
		if k == 0 && n == at {
			return slowness
		}
		return usual
	})
	slow := 0
	for i, left := 0, at; ; i++ {
		if order[i] == 0 {
			if left == 0 {
				slow = i
				break
			}
			left--
		}
	}
	soon, later := int(100*slowness/2/gap), int(2*100*slowness/gap)
	if n := count(order[slow+1:slow+1+soon], 0); n != 0 {
		t.Errorf("right after its slow answer it got %d of %d requests", n, soon)
	}
	if n := count(order[slow+1:slow+1+later], 0); n == 0 {
		t.Errorf("it got none of the %d requests after its slow answer", later)
	}
}

// TestEWMAProbesCostLittle: an instance that stays slow is tried again and again,
// for a hundredth of the time.
func TestEWMAProbesCostLittle(t *testing.T) {
	const slowness, requests = 20 * time.Millisecond, 50_000
	set := testSet(1, 1)
	order := oneAfterAnother(mustNew(t, "ewma", set).Build(set), set, requests, gap, func(k, _ int) time.Duration {
		if k == 0 {
			return slowness
		}
		return usual
	})
	n := count(order, 0)
	most := int(requests*gap/(100*slowness)) + coldAnswers
	if n < most/3 || n > most {
		t.Errorf("the slow one got %d of %d requests, want some and at most %d", n, requests, most)
	}
	// What it may cost under load: one at a time.
	set[0].Stats.Acquire()
	p, now := mustNew(t, "ewma", set).Build(set), second+int64(requests*gap)+int64(100*slowness)
	set[1].Stats.Observe(usual, now)
	for range 100 {
		if p.Pick(0, now, nil) == 0 {
			t.Fatal("the slow one got another request while it is still busy with one")
		}
	}
}
