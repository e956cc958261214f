package app

import (
	"os"
	"path/filepath"
	"testing"
)

// TestStateDir: who asks the gateway that runs finds it also while its files have
// errors, which is when one asks.
func TestStateDir(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sidegate.hcl")
	for _, more := range []string{"", "consul { token = env(\"SIDEGATE_NOT_SET\") }\n", "route \"x\" { servise = \"y\" }\n", "rout\n", "route \"x\" {\n"} {
		if err := os.WriteFile(path, []byte("state_dir = \"/srv/sidegate\"\n"+more), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := StateDir(path); got != "/srv/sidegate" {
			t.Errorf("with %q: %s", more, got)
		}
	}
	if got := StateDir(path + ".none"); got != "/var/lib/sidegate" {
		t.Errorf("without a file: %s", got)
	}
}
