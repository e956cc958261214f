package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
)

// setQuota says how much a client has used.
func (s *Server) setQuota(w http.ResponseWriter, r *http.Request) {
	used, err := strconv.ParseInt(r.FormValue("used"), 10, 64)
	if err != nil {
		http.Error(w, fmt.Sprintf("used: %v", err), http.StatusBadRequest)
		return
	}
	u, err := s.Gateway.SetQuota(r.FormValue("quota"), r.FormValue("client"), r.FormValue("period"), used)
	switch {
	case errors.Is(err, quota.ErrUnknown):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		s.json(w, http.StatusOK, u)
	}
}
