package discovery

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
)

// FuzzSnapshot reads files that may be damaged: none panics, and one that is
// taken says what was stored.
func FuzzSnapshot(f *testing.F) {
	dir := f.TempDir()
	log := logrus.New()
	store := NewSnapshots(dir, log)
	store.Save("key", []Instance{{ID: "a", Address: "10.0.0.1:80", Weight: 1}})
	if err := store.Close(); err != nil {
		f.Fatal(err)
	}
	s, err := os.ReadFile(store.path("key"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Add(s[:len(s)-1])
	f.Add(bytes.Replace(s, []byte("10.0.0.1"), []byte("10.0.0.2"), 1))
	f.Add([]byte("{}\n[]"))
	path := filepath.Join(dir, "fuzzed")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var set []Instance
		if _, err := readSnapshot(path, "key", &set); err == nil && !bytes.Contains(data, []byte(`"key"`)) {
			t.Errorf("took %q", data)
		}
	})
}

// FuzzHostPort: an address that is taken is its own canonical form.
func FuzzHostPort(f *testing.F) {
	for _, s := range []string{"a.test:80", "[::1]:8080", "1.2.3.4:0", ":80", "a:b", "[::1%eth0]:1", "unix:/x", "a.test:65536", "A.TEST:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		hp, _, err := parseHostPort(s)
		if err != nil {
			return
		}
		again, _, err := parseHostPort(net.JoinHostPort(hp.host, hp.port))
		if err != nil || again != hp {
			t.Errorf("%q is %v, and that %v, %v", s, hp, again, err)
		}
	})
}
