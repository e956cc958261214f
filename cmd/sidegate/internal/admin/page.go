package admin

import (
	_ "embed"
	"html/template"
	"net/http"
)

//go:embed page.html
var pageSource string

// page is the gateway at a glance, for a browser: no script, nothing from
// outside.
func (s *Server) page(w http.ResponseWriter, _ *http.Request) {
	t, err := template.New("page").Parse(pageSource)
	if err != nil {
		s.Log.WithError(err).Error("admin: page")
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := t.Execute(w, struct {
		Status
		Table []RouteStatus
	}{s.Gateway.Status(), s.Gateway.Routes()}); err != nil {
		s.Log.WithError(err).Debug("admin: page")
	}
}
