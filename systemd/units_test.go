package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// mostExposed is the most that systemd-analyze security may say of a unit.
const mostExposed = 1.5

// units are copies of our units, under names that systemd takes, with a program that
// is there.
func units(t *testing.T) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	for from, to := range map[string]string{"sidegate.service": "sidegate.service", "sidegate@.service": "sidegate@orders.service", "sidegate.socket": "sidegate.socket"} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, to)
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), "/usr/bin/sidegate", "/bin/true")), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze isn't here (apt-get install systemd): the units aren't looked at")
	}
	cmd := exec.Command("systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestUnitsExposure: a service unit of ours may do little.
func TestUnitsExposure(t *testing.T) {
	for _, path := range units(t) {
		if filepath.Ext(path) != ".service" {
			continue
		}
		out := analyze(t, "security", "--offline=true", "--no-pager", path)
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("systemd-analyze security says no level:\n%s", out)
		}
		if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > mostExposed {
			t.Errorf("the exposure of %s is %s, want %v at most", filepath.Base(path), m[1], mostExposed)
		}
	}
}

// TestUnitsVerify: a misspelt directive is no error to systemd, but it says so.
func TestUnitsVerify(t *testing.T) {
	if out := analyze(t, append([]string{"verify", "--man=no"}, units(t)...)...); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
}
