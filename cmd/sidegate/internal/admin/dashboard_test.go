package admin

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuilt: what is embedded was built of the sources as they are.
func TestBuilt(t *testing.T) {
	text, err := os.ReadFile("dashboard/dist/SOURCES")
	if err != nil {
		t.Fatal(err)
	}
	built := map[string]string{}
	for line := range strings.Lines(string(text)) {
		sum, path, _ := strings.Cut(strings.TrimSpace(line), "  ")
		built[path] = sum
	}
	check := func(path string) {
		b, err := os.ReadFile(filepath.Join("dashboard", path))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		if built[path] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has changed since: run make dashboard", path)
		}
		delete(built, path)
	}
	check("build.mjs")
	check("package-lock.json")
	err = fs.WalkDir(os.DirFS("dashboard"), "src", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			check(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range built {
		t.Errorf("%s is gone: run make dashboard", path)
	}
}

// TestPage: the page is a page, has nothing from outside and nothing inline, and
// what it loads is there, small and kept by browsers.
func TestPage(t *testing.T) {
	list, err := assets()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{assets: func() (map[string]asset, error) { return list, nil }}
	get := func(path, encoding string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept-Encoding", encoding)
		w := httptest.NewRecorder()
		s.page(w, r)
		return w
	}
	page := get("/", "").Body.String()
	if !strings.Contains(page, "<html") {
		t.Errorf("GET / is %q", page)
	}
	for _, wrong := range []string{"://", "<style", "style=", "onload=", "<script>"} {
		if strings.Contains(page, wrong) {
			t.Errorf("the page has %q", wrong)
		}
	}
	size := 0
	for path, a := range list {
		if path == "/" {
			continue
		}
		size += len(a.plain)
		w := get(path, "gzip, br")
		if w.Header().Get("Content-Encoding") != "gzip" || w.Body.Len() != len(a.gzipped) || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %v", path, w.Header())
		}
		if path != "/assets/uPlot-LICENSE.txt" && !strings.Contains(page, path) {
			t.Errorf("nothing loads %s", path)
		}
	}
	if size > 150<<10 {
		t.Errorf("the dashboard has %d bytes, want 150 KiB at most", size)
	}
	if w := get("/assets/app.js", ""); w.Code != 404 {
		t.Errorf("a file that isn't there: %d", w.Code)
	}
}
