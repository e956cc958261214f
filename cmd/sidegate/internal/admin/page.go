package admin

import (
	_ "embed"
	"net/http"
)

//go:embed dashboard/dist/index.html
var page []byte

// page is the gateway at a glance, for a browser: nothing from outside, and
// nothing made on the server but JSON. A template would cost 7 MB: the linker
// keeps every method of every type for it.
func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(page) // the client's loss
}
