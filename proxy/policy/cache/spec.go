package cache

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Purge says which answers are to be forgotten: those of its URLs, or of its hosts,
// those with one of its tags, those of its routes, or all. It is of one kind.
type Purge struct {
	// URLs, each with all routes, persons and variants; with * at the end all that
	// begin so; without a path all of a scheme and host.
	URLs []string `json:"urls,omitempty"`
	// Hosts are names, with a port or for all ports, of both schemes.
	Hosts []string `json:"hosts,omitempty"`
	// Tags are the surrogate keys of answers (Surrogate-Key, Cache-Tag).
	Tags []string `json:"tags,omitempty"`
	// Routes are names of routes.
	Routes []string `json:"routes,omitempty"`
	// All is everything.
	All bool `json:"all,omitempty"`
	// Soft makes answers stale, instead of forgetting them: they are validated, and
	// used as stale ones may be, while a new one is fetched or instead of an error.
	Soft bool `json:"soft,omitempty"`
}

const (
	// mostPurged is how many URLs, hosts, tags or routes a purge may have.
	mostPurged = 256
	// mostPurgedBytes bounds them together, so that one entry of a fleet has room.
	mostPurgedBytes = 28 << 10
	// longestURL bounds a URL in a purge, longestName the other names.
	longestURL  = 8 << 10
	longestName = 1024
)

// selection is a Purge as answers are compared with it.
type selection struct {
	soft bool
	all  bool
	// Each as index has them: uris and prefixes as keys of answers begin; hosts as
	// NAME, NAME:PORT or SCHEME://NAME:PORT.
	uris, prefixes, hosts, tags, routes []string
}

// Check reports what is wrong with a purge.
func (p *Purge) Check() error {
	_, err := p.compile()
	return err
}

// compile makes a selection, or says what is wrong.
func (p *Purge) compile() (*selection, error) {
	s := &selection{soft: p.Soft, all: p.All}
	kinds, values, size := 0, 0, 0
	if p.All {
		kinds++
	}
	for _, part := range []struct {
		list []string
		add  func(string) error
	}{{p.URLs, s.addURL}, {p.Hosts, s.addHost}, {p.Tags, s.addTag}, {p.Routes, s.addRoute}} {
		if len(part.list) > 0 {
			kinds++
		}
		if values += len(part.list); values > mostPurged {
			return nil, fmt.Errorf("more than %d at once: make several purges of it", mostPurged)
		}
		for _, text := range part.list {
			if size += len(text); size > mostPurgedBytes {
				return nil, fmt.Errorf("more than %d bytes at once: make several purges of it", mostPurgedBytes)
			}
			if err := part.add(text); err != nil {
				return nil, err
			}
		}
	}
	switch {
	case kinds == 0:
		return nil, errors.New("say what to forget: URLs, hosts, tags, routes, or * for everything")
	case kinds > 1:
		return nil, errors.New("URLs, hosts, tags, routes and everything don't go together: make a purge of each")
	}
	return s, nil
}

// addURL takes a URL, the beginning of some and *, or * alone.
func (s *selection) addURL(text string) error {
	if text == "*" {
		s.all = true
		return nil
	}
	begins, isPrefix := strings.CutSuffix(text, "*")
	if strings.Contains(begins, "*") {
		return fmt.Errorf("%.200q: * may stand at the end only", text)
	}
	if len(text) > longestURL {
		return fmt.Errorf("%.60q…: longer than %d bytes", text, longestURL)
	}
	u, err := url.Parse(begins)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.Fragment != "" {
		return fmt.Errorf("%.200q isn't a URL such as https://api.example.com/orders/7, nor the beginning of one and *", text)
	}
	_, rest, _ := strings.Cut(begins, "://")
	target := ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		if target = rest[i:]; target[0] == '?' {
			target = "/" + target
		}
	}
	if target == "" && isPrefix {
		return fmt.Errorf("%.200q: * stands behind a path; %s is all of a host", text, begins)
	}
	t, err := canonical(u.Scheme, u.Host, target)
	if err != nil {
		return fmt.Errorf("%.200q: %w", text, err)
	}
	host := authority(&t)
	if target == "" {
		if host == "" {
			return fmt.Errorf("%.200q has no host", text)
		}
		s.hosts = append(s.hosts, t.Scheme+"://"+host)
		return nil
	}
	list := &s.uris
	if isPrefix {
		list = &s.prefixes
	}
	path := t.Path
	if t.HasQuery {
		s.uris = append(s.uris, t.Scheme+"://"+host+path+noQuery, t.Scheme+"://"+path+noQuery)
		path += "?" + t.Query
	}
	*list = append(*list, t.Scheme+"://"+host+path)
	if host != "" {
		*list = append(*list, t.Scheme+"://"+path) // and where it lacks host
	}
	return nil
}

// canonical is what requests for a URL have as their target. A host may be missing.
func canonical(scheme, host, target string) (exchange.Target, error) {
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP10, &exchange.Conn{Scheme: scheme}, nil)
	if target == "" {
		target = "/"
	}
	x.Method, x.RawTarget, x.RawHost = "GET", target, host
	if f := x.Canonicalise(); f != nil {
		return exchange.Target{}, f.Err
	}
	return x.Target, nil
}

// authority is a target's host as keys of answers have it: without a port that goes
// without saying.
func authority(t *exchange.Target) string {
	if t.Port != "" && t.Port != defaultPort(t.Scheme) {
		return t.Host + ":" + t.Port
	}
	return t.Host
}

func (s *selection) addHost(text string) error {
	if strings.ContainsAny(text, "/*?#@") || text == "" {
		return fmt.Errorf("%.200q isn't a host such as api.example.com, or api.example.com:8443", text)
	}
	t, err := canonical("https", text, "")
	if err != nil {
		return fmt.Errorf("%.200q: %w", text, err)
	}
	host := t.Host
	if t.Port != "" {
		host += ":" + t.Port
	}
	s.hosts = append(s.hosts, host)
	return nil
}

func (s *selection) addTag(text string) error {
	tag := strings.ToLower(strings.Trim(text, " \t"))
	switch {
	case tag == "" || len(tag) > longestName:
		return fmt.Errorf("a tag has 1 to %d bytes", longestName)
	case !utf8.ValidString(text):
		return fmt.Errorf("tag %.200q isn't UTF-8", text)
	case strings.ContainsFunc(tag, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Errorf("tag %.200q has a control character", text)
	case strings.ContainsFunc(tag, separatesTags):
		return fmt.Errorf("tag %.200q has a space or comma: give each tag by itself", text)
	}
	s.tags = append(s.tags, tag)
	return nil
}

func (s *selection) addRoute(text string) error {
	if text == "" || len(text) > longestName || !utf8.ValidString(text) {
		return fmt.Errorf("a route's name has 1 to %d bytes of UTF-8", longestName)
	}
	s.routes = append(s.routes, text)
	return nil
}

// String says in words what is purged, for logs.
func (p *Purge) String() string {
	kind, list := "everything", []string(nil)
	switch {
	case len(p.URLs) > 0:
		kind, list = "URLs", p.URLs
	case len(p.Hosts) > 0:
		kind, list = "hosts", p.Hosts
	case len(p.Tags) > 0:
		kind, list = "tags", p.Tags
	case len(p.Routes) > 0:
		kind, list = "routes", p.Routes
	}
	if len(list) == 0 {
		return kind
	}
	return kind + " " + some(list)
}
