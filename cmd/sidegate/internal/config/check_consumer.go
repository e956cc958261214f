package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/introspect"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/mtls"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/personal"
)

// consumers checks plans and consumers, and that each key is one consumer's.
func (c *checker) consumers() {
	plans := map[string]bool{}
	for _, p := range c.file.Plans {
		plans[p.Name] = true
		c.useOfConsumer(p, p.Use, fmt.Sprintf("plan %q", p.Name))
		if c.broken[p] {
			continue
		}
		if err := p.Check(); err != nil {
			c.blame(p, fmt.Sprintf("plan %q", p.Name), err)
		}
	}
	c.subjects()
	c.users()
	c.certificates()
	c.logins()
	owners := map[consumer.Hash]*consumer.Config{}
	keys := map[consumer.Hash]*consumer.KeyConfig{}
	for _, o := range c.file.Consumers {
		what := fmt.Sprintf("consumer %q", o.Name)
		c.useOfConsumer(o, o.Use, what)
		if (o.Plan != "" || c.given(o, "plan")) && !plans[o.Plan] && c.whole && !c.broken[o] {
			advice := didYouMean(o.Plan, slices.Sorted(maps.Keys(plans)))
			if len(plans) == 0 {
				advice = fmt.Sprintf("Add plan %q { … } at the top.", o.Plan)
			}
			c.errorf(o, "plan", advice, "%s has the plan %q, which isn't defined", what, o.Plan)
		}
		for _, k := range o.Keys {
			if c.broken[k] {
				continue
			}
			h, err := consumer.ParseHash(k.SHA256)
			if err != nil {
				c.errorf(k, "sha256", `printf %s "$KEY" | sha256sum prints it.`, "%s: api_key: sha256: %v", what, err)
				continue
			}
			if first := owners[h]; first != nil {
				c.broken[o] = true
				c.diags.Add(Diagnostic{
					Text: fmt.Sprintf("%s has a key that consumer %q has, too", what, first.Name), Range: c.at(k, "sha256"), Also: c.at(keys[h], "sha256"),
					Advice: "Remove one of them: a key says who is calling.",
				})
				continue
			}
			owners[h], keys[h] = o, k
			if k.Expires == "" && !c.given(k, "expires") {
				continue
			}
			if _, err := consumer.ParseEnd(k.Expires); err != nil {
				c.errorf(k, "expires", "", "%s: api_key: expires: %v", what, err)
			}
		}
	}
}

// useOfConsumer checks references to bundles that hold for consumers.
func (c *checker) useOfConsumer(of any, names []string, what string) {
	c.use(of, names, what)
	for i, name := range names {
		for _, b := range c.file.Bundles {
			if b.Name != name {
				continue
			}
			for _, p := range b.Policies {
				if !slices.Contains(personal.Kinds(), p.Kind.Name) {
					c.broken[of] = true
					c.diags.Errorf(c.element(of, "use", i), "What consumers and plans may use has "+strings.Join(personal.Kinds(), ", ")+" only.",
						"%s uses the policy %q, which has %s", what, name, p.Kind.Name)
					break
				}
			}
		}
	}
}

// subjects checks whose tokens consumers are known by. A subject is somebody only
// with its issuer: where that goes without saying, it is filled in.
func (c *checker) subjects() {
	issuers := c.file.issuers()
	type key struct{ issuer, subject string }
	seen := map[key]*consumer.JWTConfig{}
	for _, o := range c.file.Consumers {
		what := fmt.Sprintf("consumer %q: jwt", o.Name)
		for _, j := range o.JWT {
			if c.broken[j] {
				continue
			}
			if j.Subject == "" {
				c.errorf(j, "subject", "", "%s: the subject is empty", what)
				continue
			}
			switch {
			case j.Issuer != "":
			case len(issuers) == 1:
				j.Issuer = issuers[0]
			case len(issuers) > 1:
				c.errorf(j, "", fmt.Sprintf("Add issuer = %q, or the other one.", issuers[0]),
					"%s: tokens of several issuers are asked for, so that a subject alone is nobody: %s", what, and(issuers))
				continue
			case c.whole:
				c.diags.warnf(c.at(j, ""), `Add issuer = "https://…", or auth "jwt" to a route.`, "%s: no auth block of the files says whose tokens", what)
				continue
			}
			k := key{j.Issuer, j.Subject}
			if first := seen[k]; first != nil {
				c.broken[o] = true
				c.diags.Add(Diagnostic{
					Text: fmt.Sprintf("%s: another consumer has the subject %q, too", what, j.Subject), Range: c.at(j, "subject"), Also: c.at(first, "subject"),
					Advice: "Remove one of them: a subject says who is calling.",
				})
				continue
			}
			seen[k] = j
		}
	}
}

// users checks names and passwords, and that each name is one consumer's.
func (c *checker) users() {
	seen := map[string]*consumer.BasicConfig{}
	for _, o := range c.file.Consumers {
		what := fmt.Sprintf("consumer %q: basic", o.Name)
		for _, b := range o.Basic {
			if c.broken[b] {
				continue
			}
			if err := b.Check(); err != nil {
				c.blame(b, what, err)
				continue
			}
			if first := seen[b.User]; first != nil {
				c.broken[o] = true
				c.diags.Add(Diagnostic{
					Text: fmt.Sprintf("%s: there is another user %q", what, b.User), Range: c.at(b, "user"), Also: c.at(first, "user"),
					Advice: "Rename one of them.",
				})
				continue
			}
			seen[b.User] = b
		}
	}
}

// certificates checks the names in certificates, that each is one consumer's, and
// that a listener asks for certificates at all.
func (c *checker) certificates() {
	seen := map[any]*consumer.MTLSConfig{}
	for _, o := range c.file.Consumers {
		what := fmt.Sprintf("consumer %q: mtls", o.Name)
		for _, m := range o.MTLS {
			if c.broken[m] {
				continue
			}
			key, err := m.Key()
			if err != nil {
				c.blame(m, what, err)
				continue
			}
			if first := seen[key]; first != nil {
				c.broken[o] = true
				c.diags.Add(Diagnostic{
					Text: fmt.Sprintf("%s: another consumer has the name %q, too", what, m.SAN), Range: c.at(m, "san"), Also: c.at(first, "san"),
					Advice: "Remove one of them: a name says who is calling.",
				})
				continue
			}
			seen[key] = m
		}
	}
	if !c.whole || slices.ContainsFunc(c.file.Listeners, func(l *proxy.ListenerConfig) bool { return l.ClientCAFile != "" }) {
		return
	}
	c.file.eachPolicy(func(b Block) {
		if _, ok := b.Config.(*mtls.Config); ok {
			c.diags.warnf(b.Range, `Add client_ca_file = "clients.pem" to a listener.`, "no listener asks for certificates, so that nobody has one")
		}
	})
}

// logins checks that browsers can keep a session somewhere.
func (c *checker) logins() {
	if !c.whole || len(c.file.TrustedProxies) > 0 || slices.ContainsFunc(c.file.Listeners, func(l *proxy.ListenerConfig) bool { return l.TLS }) {
		return
	}
	c.file.eachPolicy(func(b Block) {
		if _, ok := b.Config.(*oidc.Config); ok {
			c.diags.warnf(b.Range, "Add a listener with TLS, or name the proxy that ends it in trusted_proxies.",
				"no listener has TLS, so that nobody can log in but on this machine")
		}
	})
}

// eachPolicy calls see with each policy block of the files.
func (f *File) eachPolicy(see func(Block)) {
	for _, b := range f.Bundles {
		for _, p := range b.Policies {
			see(p)
		}
	}
	for _, r := range f.Routes {
		for _, p := range r.Policies {
			see(p)
		}
	}
}

// Issuers are those whose tokens the files' routes and bundles ask for. A server
// that is only asked about tokens, and has no issuer's name, counts where there is
// no other: what a subject means is a matter of who gives it.
func (f *File) Issuers() []string { return f.issuers() }

func (f *File) issuers() []string {
	var named, nameless []string
	f.eachPolicy(func(b Block) {
		switch c := b.Config.(type) {
		case *jwt.Config:
			named = append(named, c.Issuer)
		case *oidc.Config:
			named = append(named, c.Issuer)
		case *introspect.Config:
			if c.Issuer == "" {
				nameless = append(nameless, c.Tokens())
				break
			}
			named = append(named, c.Issuer)
		}
	})
	if len(named) == 0 {
		named = nameless
	}
	var list []string
	for _, issuer := range named {
		if issuer != "" && !slices.Contains(list, issuer) {
			list = append(list, issuer)
		}
	}
	return list
}
