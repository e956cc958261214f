package config

import (
	"net/url"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/usage/postgres"
)

// usage checks where usage is kept. The URL is never shown: it has a password.
func (c *checker) usage() {
	u := c.file.Usage
	if u == nil || c.broken[u] || u.Database == "" {
		return
	}
	const advice = `Write it like "postgres://sidegate@db.internal/sidegate", or take it out: SQLite in state_dir.`
	parsed, err := url.Parse(u.Database.Reveal())
	if err != nil || parsed.Scheme != "postgres" && parsed.Scheme != "postgresql" || strings.Trim(parsed.Path, "/") == "" {
		c.errorf(u, "database", advice, "usage: database isn't the URL of a PostgreSQL database")
		return
	}
	if _, err := postgres.Parse(u.Database); err != nil {
		_, why, _ := strings.Cut(err.Error(), "`: ") // behind the URL
		c.errorf(u, "database", advice, "usage: database: %s", why)
	}
}
