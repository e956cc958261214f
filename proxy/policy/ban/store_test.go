package ban

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestByHand(t *testing.T) {
	s := store(t, "")
	now := time.Unix(1_800_000_000, 0).UTC()
	for _, tt := range []struct{ address, client, err string }{
		{"192.0.2.1", "192.0.2.1", ""},
		{"::ffff:192.0.2.2", "192.0.2.2", ""},
		{"192.0.2.3/32", "192.0.2.3", ""},
		{"2001:db8::1", "2001:db8::/64", ""},
		{"2001:db8:1::/64", "2001:db8:1::/64", ""},
		{"fe80::1%eth0", "fe80::/64", ""},
		{"192.0.2.0/24", "", "for networks there is block"},
		{"2001:db8::/32", "", "for networks there is block"},
		{"2001:db8::1/128", "", "for networks there is block"},
		{"example.com", "", "isn't an address"},
		{"", "", "isn't an address"},
	} {
		b, err := s.Add(tt.address, now, time.Hour)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("Add(%s) = %v, want %q", tt.address, err, tt.err)
			}
			continue
		}
		if d := cmp.Diff(Ban{tt.client, now, now.Add(time.Hour), 1, Operator}, b); err != nil || d != "" {
			t.Errorf("Add(%s) = %v: %s", tt.address, err, d)
		}
	}
	if n := len(s.List(now)); n != 6 {
		t.Errorf("%d bans, want 6", n)
	}
	for _, lasts := range []time.Duration{0, -time.Hour, 20 * 365 * 24 * time.Hour} {
		if _, err := s.Add("192.0.2.1", now, lasts); err == nil {
			t.Errorf("a ban of %s", lasts)
		}
	}
	if ok, err := s.Remove("2001:db8::9", now); !ok || err != nil {
		t.Errorf("Remove = %t, %v", ok, err)
	}
	if ok, err := s.Remove("2001:db8::9", now); ok || err != nil {
		t.Errorf("Remove again = %t, %v", ok, err)
	}
	if _, err := s.Remove("x", now); err == nil {
		t.Error("Remove of nonsense")
	}
	if n := len(s.List(now)); n != 5 {
		t.Errorf("%d bans, want 5", n)
	}
	if n := len(s.List(now.Add(time.Hour))); n != 0 {
		t.Errorf("%d bans when all are over", n)
	}
	if s.tidy(now.Add(24 * time.Hour).Unix()); !s.empty() {
		t.Error("what is long over is remembered")
	}
}

func TestBounded(t *testing.T) {
	s := store(t, "")
	now := time.Now()
	for i := range maxBans + 5000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		s.ban(clientOf(a), "r", now.Add(time.Duration(i)*time.Second/100), time.Hour*24, time.Hour*24)
	}
	if n := s.active.Load(); n > maxBans || n < maxBans*9/10 {
		t.Errorf("%d bans are remembered, want about %d and never more", n, maxBans)
	}
	n := int64(0)
	s.each(func(client, entry) { n++ })
	if n != s.active.Load() {
		t.Errorf("%d entries, %d counted", n, s.active.Load())
	}
}

// TestRestart: what Run has written is there again.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bans.json")
	s := store(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	now := time.Now()
	for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
		if _, err := s.Add(a, now, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	s.ban(clientOf(netip.MustParseAddr("192.0.2.2")), "login", now, time.Minute, time.Hour)
	cancel()
	<-done
	again := store(t, path)
	if d := cmp.Diff(s.List(now), again.List(now)); d != "" {
		t.Errorf("after a restart: %s", d)
	}
	// The next one lasts longer: what was before is known, too.
	later := now.Add(2 * time.Minute)
	again.ban(clientOf(netip.MustParseAddr("192.0.2.2")), "login", later, time.Minute, time.Hour)
	if b := again.List(later); len(b) != 3 || b[2].Times != 2 || b[2].Until.Sub(b[2].Since) != 2*time.Minute {
		t.Errorf("%+v", b)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the file lies %v (%v)", entries, err)
	}
}

func TestBadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bans.json")
	for _, text := range []string{"{", `[{"client":"x"}]`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := NewStore(Deps{Path: path})
		if err == nil || !strings.HasPrefix(err.Error(), path) || s == nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
