package tls

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzSealed opens what may have been changed where it was stored: only what
// was sealed under that name comes out.
func FuzzSealed(f *testing.F) {
	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, sealerFile), []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600); err != nil {
		f.Fatal(err)
	}
	s, err := newSealer(dir)
	if err != nil {
		f.Fatal(err)
	}
	sealed := s.seal("name", []byte("value"), time.Unix(1, 0))
	f.Add(sealed, "name")
	f.Add(sealed[:len(sealed)-1], "name")
	f.Add(sealed, "other")
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		value, _, err := s.open(name, b)
		if err == nil && (name != "name" || string(value) != "value") {
			t.Errorf("opened %q from %q", value, b)
		}
	})
}

// FuzzTicketKeys reads a file of ticket keys that may be broken: what is taken
// can be used.
func FuzzTicketKeys(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "keys")
	f.Add([]byte(`[{"made":"2024-01-01T00:00:00Z","id":"MTIzNDU2Nzg=","key":"MTIzNDU2NzgxMjM0NTY3ODEyMzQ1Njc4MTIzNDU2Nzg="}]`))
	f.Add([]byte(`[{}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		k := &ticketKeys{path: path, now: time.Now}
		keys, err := k.load()
		if err != nil {
			t.Fatal(err)
		}
		next, err := k.advance(keys)
		if err != nil || len(next) == 0 || len(next) > ticketKeep {
			t.Errorf("%d keys of %d: %v", len(next), len(keys), err)
		}
		for _, key := range next {
			if len(key.ID) != 8 || key.aead == nil {
				t.Errorf("key %+v", key)
			}
		}
	})
}
