package config

import "net/url"

// usage checks where usage is kept.
func (c *checker) usage() {
	u := c.file.Usage
	if u == nil || c.broken[u] || u.Database == "" {
		return
	}
	parsed, err := url.Parse(u.Database.Reveal()) // never shown: it has a password
	if err != nil || parsed.Scheme != "postgres" && parsed.Scheme != "postgresql" || parsed.Path == "" || parsed.Path == "/" {
		c.errorf(u, "database", `Write it like "postgres://sidegate@db.internal/sidegate", or take it out: SQLite in state_dir.`, "usage: database isn't the URL of a PostgreSQL database")
		return
	}
	c.errorf(u, "database", "Take it out: SQLite in state_dir.", "usage: PostgreSQL is not available yet")
}
