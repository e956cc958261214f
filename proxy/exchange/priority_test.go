package exchange

import "testing"

func TestRank(t *testing.T) {
	as := func(p Priority) *Consumer { return &Consumer{Name: "c", Priority: p} }
	for _, tt := range []struct {
		name string
		x    Exchange
		want Priority
	}{
		{"nothing is said", Exchange{}, NormalPriority},
		{"the route's", Exchange{Priority: LowPriority}, LowPriority},
		{"the consumer's", Exchange{Priority: LowPriority, Consumer: as(HighPriority)}, HighPriority},
		{"a consumer without", Exchange{Priority: HighPriority, Consumer: as(Unranked)}, HighPriority},
		{"a copy's", Exchange{Priority: HighPriority, Consumer: as(HighPriority), Copy: true}, LowPriority},
	} {
		if got := tt.x.Rank(); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	for _, p := range []Priority{LowPriority, NormalPriority, HighPriority} {
		if got := ParsePriority(p.String()); got != p {
			t.Errorf("ParsePriority(%q) = %v", p, got)
		}
	}
	for _, s := range []string{"", "Low", "urgent"} {
		if got := ParsePriority(s); got != Unranked {
			t.Errorf("ParsePriority(%q) = %v", s, got)
		}
	}
}
