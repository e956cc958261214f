package app

import "github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"

// Cache says what is stored, and how requests to routes with a cache were answered.
func (a *App) Cache() admin.CacheStatus {
	bytes, items := a.cached.Size()
	return admin.CacheStatus{Items: items, Bytes: bytes, Routes: a.cached.Counts()}
}

// Purge forgets the answers of a URL, or of those that begin so.
func (a *App) Purge(url string) (int, error) {
	n, err := a.cached.Purge(url)
	if err == nil {
		a.log.WithField("url", url).WithField("answers", n).Info("answers in the cache are forgotten")
	}
	return n, err
}
