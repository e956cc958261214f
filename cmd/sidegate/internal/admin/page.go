package admin

import (
	"bytes"
	"compress/gzip"
	"embed"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// dashboard is what make dashboard builds of the folder's sources. The names of
// scripts and styles have their hash.
//
//go:embed dashboard/dist
var dashboard embed.FS

const assetsPath = "/assets/"

// asset is a file of the dashboard.
type asset struct {
	kind           string
	plain, gzipped []byte
}

// assets reads the dashboard's files, by their paths.
func assets() (map[string]asset, error) {
	list := map[string]asset{}
	dir, err := fs.Sub(dashboard, "dashboard/dist")
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "SOURCES" {
			return err
		}
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(text); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		at := assetsPath + name
		if name == "index.html" {
			at = "/"
		}
		list[at] = asset{kind: kindOf(name), plain: text, gzipped: b.Bytes()}
		return nil
	})
	return list, err
}

func kindOf(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		return "text/plain; charset=utf-8"
	}
}

// page answers with the dashboard's files. What has its hash in its name never
// changes; the page itself is asked for each time.
func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	list, err := s.assets()
	if err != nil {
		s.Log.WithError(err).Error("the dashboard can't be read")
		http.Error(w, "the dashboard can't be read", http.StatusInternalServerError)
		return
	}
	a, ok := list[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", "no-cache")
	if strings.HasPrefix(r.URL.Path, assetsPath) {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		_, _ = w.Write(a.gzipped) // the client's loss
		return
	}
	_, _ = w.Write(a.plain) // likewise
}
