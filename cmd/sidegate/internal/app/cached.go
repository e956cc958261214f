package app

import (
	"net/http"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
)

// Cache says what is stored, and how requests to routes with a cache were answered.
func (a *App) Cache() admin.CacheStatus {
	bytes, items := a.cached.Size()
	return admin.CacheStatus{Items: items, Bytes: bytes, Routes: a.cached.Counts()}
}

// Inspect says what is stored of a URL.
func (a *App) Inspect(url string) (cache.Inspection, error) {
	i, err := a.cached.Inspect(url)
	if err != nil {
		return i, admin.Refuse(http.StatusBadRequest, "%v", err)
	}
	return i, nil
}
