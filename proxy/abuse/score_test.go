package abuse

import (
	"testing"
)

func TestScore(t *testing.T) {
	var s Score
	now := second
	verdicts := map[Verdict]int{}
	for range Most/20 - 1 {
		verdicts[s.Add(now, Ping, 1)]++
	}
	if verdicts[Bear] != 74 || verdicts[Leave] != 25 || verdicts[Cut] != 0 {
		t.Errorf("99 pings: %v", verdicts)
	}
	if v := s.Add(now, Ping, 1); v != Cut || s.Worst() != Ping {
		t.Errorf("the hundredth: %v for %v", v, s.Worst())
	}
	now += second // half is forgotten
	if v := s.Add(now, Priority, 124); v != Bear {
		t.Errorf("a second later: %v", v)
	}
	if v := s.Add(now, Malformed, 1); v != Leave || s.Worst() != Ping {
		t.Errorf("kinds don't add up: %v for %v", v, s.Worst())
	}
	now += 100 * second
	if v := s.Add(now, Malformed, 1); v != Bear || s.Worst() != Malformed {
		t.Errorf("long after: %v for %v", v, s.Worst())
	}
	if v := s.Add(now, Slow, 3); v != Leave {
		t.Errorf("slow heads: %v", v)
	}
	s = Score{}
	if v := s.Add(now, Settings, 1<<20); v != Cut {
		t.Errorf("very many: %v", v)
	}
	if s.Exceed(Headers); s.Add(now, Ping, 1) != Cut {
		t.Error("what ends a connection doesn't")
	}
}

// TestSteady: what comes evenly is cut at half of what comes at once.
func TestSteady(t *testing.T) {
	for _, tt := range []struct {
		perSecond int
		want      Verdict
	}{{30, Bear}, {45, Leave}, {60, Cut}} {
		var s Score
		worst, now := Bear, second
		for range 60 * tt.perSecond {
			now += second / int64(tt.perSecond)
			worst = max(worst, s.Add(now, Ping, 1))
		}
		if worst != tt.want {
			t.Errorf("%d pings a second: %v, want %v", tt.perSecond, worst, tt.want)
		}
	}
}

// TestClock: a clock that is set back doesn't make years of a second.
func TestClock(t *testing.T) {
	var s Score
	var r Resets
	now := 3600 * second
	s.Add(now, Ping, 1)
	r.Reset(now, 1, 128)
	now = second
	for i := range 1000 {
		now += second / 2
		if v := s.Add(now, Ping, 1); v != Bear {
			t.Fatalf("two pings a second: %v", v)
		}
		if r.Reset(now, uint64(2+i), 128) {
			t.Fatal("two resets a second are too many")
		}
	}
}

func TestResets(t *testing.T) {
	for _, tt := range []struct {
		name          string
		opened, reset int // in a second
		max           int
		want          bool
	}{
		{"few", 50, 50, 128, false},
		{"half", 200, 100, 128, false},
		{"more than half", 200, 130, 128, true},
		{"many of very many", 3000, 300, 128, false},
		{"many", 1000, 300, 128, true},
		{"all of one page", 99, 99, 128, false},
	} {
		var r Resets
		many := false
		for second := range 3 {
			for i := range tt.reset {
				opened := uint64(second*tt.opened + tt.opened*(i+1)/tt.reset)
				many = many || r.Reset(int64(second+1)*1e9, opened, tt.max)
			}
		}
		if many != tt.want {
			t.Errorf("%s: too many: %t", tt.name, many)
		}
	}
}

func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if k.String() == "" || seen[k.String()] || behaviours[k].cost < 1 {
			t.Errorf("%d: %q costs %d", k, k, behaviours[k].cost)
		}
		seen[k.String()] = true
	}
}
