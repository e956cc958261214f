package config

import (
	"os"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestUsageREADME: what it shows are configurations.
func TestUsageREADME(t *testing.T) {
	readme, err := os.ReadFile("../../../../proxy/usage/README.md")
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Kinds = realKinds()
	o.Env = env(map[string]string{"USAGE_DATABASE": "postgres://sidegate:hunter2@db.internal/usage"})
	snippets := policytest.Snippets(string(readme))
	if len(snippets) < 2 {
		t.Fatalf("%d snippets", len(snippets))
	}
	for _, s := range snippets {
		if f := good(t, s+"\nroute \"r\" {\n  respond {}\n}\n", o); f.Usage != nil && f.Usage.Retain != 400*24*time.Hour {
			t.Errorf("days are kept for %v", f.Usage.Retain)
		}
	}
}
