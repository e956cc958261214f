package config

import (
	"testing"
	"time"
)

// FuzzNumbers: a size, duration or network that is read is written in a way that
// reads the same.
func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"", "0B", "1024B", "8KiB", "16TiB", "9223372036854775807B", "1.5MiB", "-1B", "+1B", "B", "1h0m0s", "90s", "10.0.0.0/8", "::1", "::ffff:1.2.3.4", "10.0.0.1/8", "fe80::1%a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseSize(s); err == nil {
			if again, err := parseSize(sizeText(n)); err != nil || again != n || n < 0 {
				t.Errorf("size %q is %d, written %q, read as %d, %v", s, n, sizeText(n), again, err)
			}
		}
		if d, err := time.ParseDuration(s); err == nil {
			if again, err := time.ParseDuration(durationText(d)); err != nil || again != d {
				t.Errorf("duration %q is %v, written %q, read as %v, %v", s, d, durationText(d), again, err)
			}
		}
		if p, err := parseNetwork(s); err == nil {
			if again, err := parseNetwork(p.String()); err != nil || again != p {
				t.Errorf("network %q is %v, read as %v, %v", s, p, again, err)
			}
		}
	})
}
