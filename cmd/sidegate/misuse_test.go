package main

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMisuse: a command line that makes no sense fails, and says what would make some.
func TestMisuse(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.hcl")
	for _, tt := range []struct {
		args, want string
		usage      bool
	}{
		{"cache prge", `unknown command "prge" for "sidegate cache": write it as sidegate cache, and see`, true},
		{"cache prge --soft", `unknown command "prge"`, true},
		{"key lst acme", `unknown command "lst"`, true},
		{"charges show", "write it as sidegate charges show ID", true},
		{"quota set acme", "write it as sidegate quota set QUOTA CLIENT PERIOD USED", true},
		{"top x", `unknown command "x" for "sidegate top"`, true},
		{"usage --csv --json", "not both", true},
		{"status --config " + none, "there is no file " + none, false},
		{"cache stats --config " + none, "there is no file " + none, false},
		{"cache", "", false},
	} {
		root := rootCommand()
		root.SetOut(io.Discard)
		root.SetErr(io.Discard)
		root.SetArgs(strings.Fields(tt.args))
		err := root.ExecuteContext(t.Context())
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) || errors.As(err, new(usageError)) != tt.usage {
			t.Errorf("sidegate %s: %v, want %q", tt.args, err, tt.want)
		}
	}
}

// TestDay: charges take ages, as usage does.
func TestDay(t *testing.T) {
	now := time.Date(2026, 11, 25, 0, 30, 0, 0, time.FixedZone("", 3600)) // still the 24th in UTC
	for text, want := range map[string]string{"7d": "2026-11-17", "0d": "2026-11-24", "2026-11-02": "2026-11-02", "d": "d", "-1d": "-1d", "99999d": "99999d"} {
		if got := day(text, now); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
