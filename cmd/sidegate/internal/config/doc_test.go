package config

import (
	"os"
	"regexp"
	"testing"
)

// TestObservabilityExamples: what the document and the README show of logs and traces
// is a configuration.
func TestObservabilityExamples(t *testing.T) {
	for path, want := range map[string]int{"../../../../packaging/doc/observability.md": 2, "../../../../README.md": 1} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, m := range regexp.MustCompile("(?s)```hcl\n(.*?)```").FindAllSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^(access_log|tracing) `).Match(m[1]) {
				continue
			}
			n++
			if _, diags := Parse(path, m[1], options()); len(diags.List()) > 0 {
				t.Errorf("%s", diags)
			}
		}
		if n != want {
			t.Errorf("%s has %d examples, want %d", path, n, want)
		}
	}
}
