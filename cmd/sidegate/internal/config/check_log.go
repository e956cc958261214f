package config

import (
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/apikey"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/forward"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
)

// accessLog checks what is to stand in the access log: nothing that holds
// credentials.
func (c *checker) accessLog() {
	l := c.file.AccessLog
	if l == nil || c.broken[l] {
		return
	}
	if l.Format != "json" && len(l.Fields) > 0 {
		c.errorf(l, "fields", `Take them out, or write format = "json".`, "access_log: the fields of %s are always the same", l.Format)
		return
	}
	secrets, names := c.file.Credentials(), proxy.AccessFieldNames()
	for i, f := range l.Fields {
		if slices.Contains(l.Fields[:i], f) {
			c.diags.Errorf(c.element(l, "fields", i), "Keep one of them.", "access_log: the field %q is there twice", f)
			continue
		}
		if err := proxy.CheckAccessField(f, secrets); err != nil {
			advice := ""
			if !strings.HasPrefix(f, "header.") && !strings.HasPrefix(f, "response.") {
				if advice = didYouMean(f, names); advice == "" {
					advice = "There are " + strings.Join(names, ", ") + ", header.NAME and response.NAME."
				}
			}
			c.diags.Errorf(c.element(l, "fields", i), advice, "access_log: fields: %v", err)
		}
	}
	for i, name := range l.Redact {
		if name != "*" && strings.ContainsAny(name, "*&;=%# ") || name == "" {
			c.diags.Errorf(c.element(l, "redact", i), `Write names, or "*" for all.`, "access_log: redact: %q isn't the name of a query parameter", name)
		}
	}
}

// tracing checks where traces go.
func (c *checker) tracing() {
	if t := c.file.Tracing; t != nil && !c.broken[t] {
		if err := t.Validate(); err != nil {
			c.blame(t, "tracing", err)
		}
	}
}

// Credentials are the names of what auth reads keys, tokens and the like from.
func (f *File) Credentials() proxy.Credentials {
	var out proxy.Credentials
	f.eachPolicy(func(b Block) {
		switch cfg := b.Config.(type) {
		case *apikey.Config:
			out.Headers = append(out.Headers, cfg.Header)
			if cfg.Query != "" {
				out.Query = append(out.Query, cfg.Query)
			}
		case *forward.Config: // what another service decides by: well-known fields aside, it may be anything
			for _, h := range cfg.Headers {
				if exchange.Lookup(h) == exchange.Other && !exchange.EqualFold(h, "X-Requested-With") {
					out.Headers = append(out.Headers, h)
				}
			}
		case *oidc.Config: // what a provider sends browsers back with
			out.Query = append(out.Query, "code")
		}
	})
	slices.Sort(out.Headers)
	slices.Sort(out.Query)
	out.Headers, out.Query = slices.Compact(out.Headers), slices.Compact(out.Query)
	return out
}
