package app

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// TestWatchdog: no heartbeat while the way of requests, or the configuration,
// hangs; and the log says which.
func TestWatchdog(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	beats := 0
	var hang error
	free, ending := true, false
	w := &watchdog{
		log: log, interval: time.Hour, check: func(context.Context) error { return hang },
		try: func() bool { return free }, beat: func() error { beats++; return nil }, ending: func() bool { return ending },
	}
	step := func(name string, want int, said string) {
		t.Helper()
		out.Reset()
		w.once(context.Background())
		if beats != want || !strings.Contains(out.String(), said) || said == "" && out.Len() > 0 {
			t.Errorf("%s: %d heartbeats, want %d; the log has %q, want %q", name, beats, want, out.String(), said)
		}
	}
	step("all is well", 1, "")
	hang = errors.New(`listener \"https\": no answer at the stage accept`)
	step("hangs", 1, "no answer at the stage accept")
	hang = nil
	step("is back", 2, "hang any more")
	free = false
	step("a reload", 3, "")
	w.held = w.held.Add(-buildPatience - time.Second)
	step("a reload without end", 3, "configuration has been locked for 2m1s")
	free = true
	step("its end", 4, "hang any more")
	free = false
	step("another reload", 5, "")

	ending, hang = true, context.DeadlineExceeded
	step("the end of a process", 5, "")
	ending = false

	gone, cancel := context.WithCancel(context.Background())
	cancel()
	hang = context.Canceled
	out.Reset()
	if w.run(gone); beats != 5 || out.Len() > 0 {
		t.Errorf("at the end: %d heartbeats, %s", beats, &out)
	}
}
