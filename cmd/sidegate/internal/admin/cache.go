package admin

import (
	"net/http"

	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
)

// CacheStatus is what cache blocks have stored, and how requests were answered.
type CacheStatus struct {
	Items  int             `json:"items"`
	Bytes  uint64          `json:"bytes"`
	Disk   cache.DiskState `json:"disk"`
	Routes []cache.Count   `json:"routes"`
}

func (s *Server) purge(w http.ResponseWriter, r *http.Request) {
	n, err := s.Gateway.Purge(r.URL.Query().Get("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.json(w, http.StatusOK, map[string]int{"purged": n})
}
