package main

import (
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
)

// TestPrintKeys: whoever may write keys into Consul writes nothing to the terminal
// of who lists them but text.
func TestPrintKeys(t *testing.T) {
	var b strings.Builder
	if err := printKeys(&b, []admin.KeyStatus{{Consumer: "a\x1b[2J\nb\u009bé", ID: "0123456789ab", Origin: "consul\r", State: "no consumer"}}); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "a?[2J?b?é") || strings.ContainsAny(got, "\x1b\r\u009b") || strings.Count(got, "\n") != 2 {
		t.Errorf("%q", got)
	}
}
