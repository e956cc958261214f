package sweep

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestTime sees Time keep up with the clock, between sweeps and over them.
func TestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Run(ctx) }()
		for range 5 {
			time.Sleep(Interval * 2 / 3)
			if got, want := s.Time(), time.Now(); !got.Equal(want) {
				t.Errorf("Time() = %v, want %v", got, want)
			}
		}
		cancel()
		<-done
	})
}
