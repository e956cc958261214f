package answer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/template"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

// redirect sends the client elsewhere.
type redirect struct {
	to       *template.Template
	text     string
	status   int
	relative bool // to begins with a path
	host     bool // to holds {host}
}

var _ policy.ParamReader = (*redirect)(nil)

// Redirect makes the answer of a redirect block. Which host it leads to is the
// configuration's decision alone: no part of a request but its own host, which
// the route matched, can stand in the authority.
func Redirect(c route.RedirectConfig) (policy.Requester, error) {
	switch c.Status {
	case 301, 302, 303, 307, 308:
	default:
		return nil, fmt.Errorf("status: %d isn't one of 301, 302, 303, 307 and 308", c.Status)
	}
	t, err := template.Compile(c.To)
	if err != nil {
		return nil, fmt.Errorf("to: %w", err)
	}
	relative, err := checkTarget(t.Parts())
	if err != nil {
		return nil, fmt.Errorf("to: %q: %w", c.To, err)
	}
	host := slices.ContainsFunc(t.Parts(), func(p template.Part) bool { return p.Kind == template.Host })
	return &redirect{to: t, text: c.To, status: c.Status, relative: relative, host: host}, nil
}

// checkTarget refuses targets whose host could depend on the client.
func checkTarget(parts []template.Part) (relative bool, err error) {
	if len(parts) == 0 {
		return false, errors.New("is empty")
	}
	for _, p := range parts {
		for i := range len(p.Text) {
			if c := p.Text[i]; c <= ' ' || c == 0x7f || c == '\\' {
				return false, fmt.Errorf("has the character %q, which no URL has", c)
			}
		}
	}
	first := parts[0]
	switch {
	case first.Kind == template.Path:
		return true, nil
	case first.Kind == template.Literal && strings.HasPrefix(first.Text, "/"):
		if strings.HasPrefix(first.Text, "//") || first.Text == "/" && len(parts) > 1 && parts[1].Kind == template.Path {
			return false, errors.New("starts with //, which leads to another host; write the scheme, too")
		}
		return true, nil
	case first.Kind == template.Scheme:
		if len(parts) < 2 || parts[1].Kind != template.Literal || !strings.HasPrefix(parts[1].Text, "://") {
			return false, errors.New("must have :// behind {scheme}")
		}
		rest := append([]template.Part{{Kind: template.Literal, Text: parts[1].Text[3:]}}, parts[2:]...)
		return false, checkAuthority(rest)
	case first.Kind == template.Literal:
		scheme, rest, ok := strings.Cut(first.Text, "://")
		if !ok || scheme != "http" && scheme != "https" {
			break
		}
		return false, checkAuthority(append([]template.Part{{Kind: template.Literal, Text: rest}}, parts[1:]...))
	}
	return false, errors.New("must start with https://, http://, {scheme}://, / or {path}")
}

// checkAuthority looks at what stands behind "://" up to the path.
func checkAuthority(parts []template.Part) error {
	empty := true
	for _, p := range parts {
		switch p.Kind {
		case template.Literal:
			authority := p.Text
			end := strings.IndexAny(authority, "/?#")
			if end >= 0 {
				authority = authority[:end]
			}
			if strings.ContainsAny(authority, "@") {
				return errors.New("has a user name before the host")
			}
			empty = empty && authority == ""
			if end >= 0 {
				return hostThere(empty)
			}
		case template.Host:
			empty = false
		case template.Path, template.Query:
			return hostThere(empty)
		default:
			return errors.New("the host can hold no placeholder but {host}; a / must stand before any other")
		}
	}
	return hostThere(empty)
}

func hostThere(empty bool) error {
	if empty {
		return errors.New("has no host")
	}
	return nil
}

// Request answers.
func (r *redirect) Request(x *exchange.Exchange) (policy.Verdict, error) {
	if r.host && x.Target.Host == "" {
		return policy.Done, exchange.NewFault(exchange.FromClient, exchange.BadHost, "no host to redirect to")
	}
	var expanded, location [512]byte
	b := r.to.Append(expanded[:0], x)
	if r.relative {
		// A parameter that the path hasn't leaves // behind: another host.
		for len(b) > 1 && b[0] == '/' && b[1] == '/' {
			b = b[1:]
		}
	}
	x.Reply(r.status, "", nil)
	x.Response.Append("Location", x.Keep(appendURL(location[:0], b)))
	return policy.Done, nil
}

// appendURL appends b with what can't stand in a URL escaped: a query comes as
// the client sent it.
func appendURL(dst, b []byte) []byte {
	const hex = "0123456789ABCDEF"
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '<' || c == '>' || c == '\\' || c == '^' || c == '`' || c == '{' || c == '|' || c == '}' {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
			continue
		}
		dst = append(dst, c)
	}
	return dst
}

// Explain says where it leads.
func (r *redirect) Explain() string { return fmt.Sprintf("redirects with %d to %s", r.status, r.text) }

// Params returns the path parameters that the target reads.
func (r *redirect) Params() []string { return r.to.Params() }
