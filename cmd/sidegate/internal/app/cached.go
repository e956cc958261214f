package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
)

// Cache says what is stored, and how requests to routes with a cache were answered.
func (a *App) Cache() admin.CacheStatus {
	bytes, items := a.cached.Size()
	return admin.CacheStatus{Items: items, Bytes: bytes, Disk: a.cached.Disk(), Routes: a.cached.Counts()}
}

// cacheProblems says why answers aren't kept on disk, where they are to be.
func (a *App) cacheProblems() []admin.Problem {
	if d := a.cached.Disk(); d.Problem != "" {
		return []admin.Problem{{Where: "cache on disk", Text: d.Problem}}
	}
	return nil
}

// cacheDisk shows the cache's part on disk.
func (c *collector) cacheDisk(count, gauge emit) {
	s := c.app.cached.Disk()
	if s.Most == 0 {
		return
	}
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sidegate_cache_disk_"+name, help, labels, nil)
	}
	gauge(d("bytes", "Bytes that stored answers take on disk."), float64(s.Used))
	gauge(d("items", "Answers on disk."), float64(s.Files))
	gauge(d("failing", "1 while answers can't be kept on disk."), number(s.Problem != ""))
	count(d("written_total", "Answers that were written to the disk."), float64(s.Written))
	count(d("hits_total", "Answers that were read from the disk."), float64(s.Hits))
	count(d("dropped_total", "Answers that weren't written since the disk was too slow."), float64(s.Dropped))
	count(d("errors_total", "Writes to the disk that failed."), float64(s.Failed))
	count(d("broken_total", "Files that weren't as they were written, and weren't used."), float64(s.Broken))
	count(d("evicted_total", "Answers on disk that others took the place of."), float64(s.Evicted))
}

// Purge forgets the answers of a URL, or of those that begin so.
func (a *App) Purge(url string) (int, error) {
	n, err := a.cached.Purge(url)
	if err == nil {
		a.log.WithField("url", url).WithField("answers", n).Info("answers in the cache are forgotten")
	}
	return n, err
}
