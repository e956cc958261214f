package rate

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

func TestParse(t *testing.T) {
	tests := []struct {
		text  string
		burst int
		want  exchange.Rate
	}{
		{"100/s", 200, exchange.Rate{Count: 100, Per: time.Second, Burst: 200, Interval: 10 * time.Millisecond}},
		{"100/s", 0, exchange.Rate{Count: 100, Per: time.Second, Burst: 100, Interval: 10 * time.Millisecond}},
		{"3/s", 0, exchange.Rate{Count: 3, Per: time.Second, Burst: 3, Interval: 333_333_334}},
		{"5000/m", 0, exchange.Rate{Count: 5000, Per: time.Minute, Burst: 84, Interval: 12 * time.Millisecond}},
		{"1/h", 0, exchange.Rate{Count: 1, Per: time.Hour, Burst: 1, Interval: time.Hour}},
		{"86400/day", 7, exchange.Rate{Count: 86400, Per: 24 * time.Hour, Burst: 7, Interval: time.Second}},
		{"10000000/s", 0, exchange.Rate{Count: 10_000_000, Per: time.Second, Burst: 10_000_000, Interval: 100}},
	}
	for _, tt := range tests {
		got, err := Parse(tt.text, tt.burst)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.text, err)
			continue
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("Parse(%q, %d): %s", tt.text, tt.burst, d)
		}
		if text := Text(got); text != tt.text {
			t.Errorf("Text = %q, want %q", text, tt.text)
		}
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct {
		text  string
		burst int
		want  string
	}{
		{"", 0, "isn't a rate"},
		{"100", 0, "isn't a rate"},
		{"/s", 0, "isn't a rate"},
		{"-1/s", 0, "isn't a rate"},
		{"1.5/s", 0, "isn't a rate"},
		{"99999999999999999999/s", 0, "isn't a rate"},
		{"10/sec", 0, "by s, m, h or day"},
		{"10/month", 0, "no fixed length"},
		{"0/s", 0, "lets nothing pass"},
		{"10000001/s", 0, "more than 10000000/s"},
		{"1/day", 10_000, "more than ten years"},
		{"10000000/s", 1_000_000_001, "a burst of 1000000001"},
	}
	for _, tt := range tests {
		if _, err := Parse(tt.text, tt.burst); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q, %d) = %v, want %q", tt.text, tt.burst, err, tt.want)
		}
	}
}
