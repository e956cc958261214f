package config

import (
	"net/url"
	"slices"
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

// ownUsage checks a route that tells consumers what they have used.
func (c *checker) ownUsage(r *Route, what string) {
	if c.whole && c.file.Usage == nil {
		c.errorf(r, "usage", "Add usage {} at the top.", "%s: usage: it isn't counted who uses what", what)
	}
	auth := func(list []Block) bool {
		return slices.ContainsFunc(list, func(b Block) bool { return b.Kind.Name == "auth" })
	}
	if !c.whole || auth(r.Policies) || slices.ContainsFunc(c.file.Bundles, func(b *Bundle) bool { return slices.Contains(r.Use, b.Name) && auth(b.Policies) }) {
		return
	}
	c.errorf(r, "usage", `Add auth "api_key" { header = "X-API-Key" }, or another auth block.`, "%s: usage: it is that of whoever is calling, and the route doesn't find out who that is", what)
}
