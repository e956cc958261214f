package balance

import (
	"math"
	"testing"
	"time"
)

func TestFade(t *testing.T) {
	for s := range 41 {
		got, want := fade(int64(s)*second), math.Exp(-float64(s)/decay.Seconds())
		if math.Abs(got-want) > 0.04*want {
			t.Errorf("fade(%d s) = %v, want about %v", s, got, want)
		}
	}
	if got := fade(int64(100 * time.Second)); got > 1.0/10000 {
		t.Errorf("fade(100 s) = %v", got)
	}
}
