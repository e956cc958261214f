package route

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Bounds of a rule's path: of a search's depth, and of mistakes.
const (
	maxSegments = 64
	maxPath     = 4096
)

// pattern is a parsed path of a rule. Its segments are what stands between
// slashes, the empty last one of "/a/" included.
type pattern struct {
	kind     uint8
	segments []string
	wild     []bool   // segment i is a parameter
	names    []string // of the parameters, in their order
	literals int
	text     string // as it was written
	exact    string // the canonical path, of kind exactPath
}

// The kinds of paths, the most specific first.
const (
	exactPath uint8 = iota
	paramPath
	prefixPath
	anyPath
)

// Params returns the names of the parameters in paths, each once: what a
// template of that route may use.
func Params(paths []string) []string {
	var names []string
	for _, p := range paths {
		for s := range strings.SplitSeq(p, "/") {
			if name, ok := paramName(s); ok && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func paramName(segment string) (string, bool) {
	if len(segment) < 3 || segment[0] != '{' || segment[len(segment)-1] != '}' {
		return "", false
	}
	name := segment[1 : len(segment)-1]
	for i := range len(name) {
		c := name[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return "", false
		}
	}
	return name, true
}

// pathParser brings literal segments into the canonical form, in the one way
// that requests take.
type pathParser struct {
	conn exchange.Conn
	x    exchange.Exchange
}

func (pp *pathParser) parse(text string) (pattern, error) {
	p := pattern{text: text, kind: exactPath}
	switch {
	case text == "" || text[0] != '/':
		return p, errors.New("must start with /")
	case len(text) > maxPath:
		return p, fmt.Errorf("of %d bytes; at most %d are allowed", len(text), maxPath)
	}
	rest := text[1:]
	if prefix, ok := strings.CutSuffix(text, "/*"); ok {
		p.kind = prefixPath
		if prefix == "" {
			return p, nil
		}
		rest = prefix[1:]
	}
	segments := strings.Split(rest, "/")
	if len(segments) > maxSegments {
		return p, fmt.Errorf("of %d segments; at most %d are allowed", len(segments), maxSegments)
	}
	for i, s := range segments {
		if err := pp.segment(&p, s, i == len(segments)-1 && p.kind == exactPath); err != nil {
			return p, err
		}
	}
	if n := len(segments) + len(strings.Join(p.segments, "")); n > maxPath {
		return p, fmt.Errorf("of %d bytes once escaped; at most %d are allowed", n, maxPath)
	}
	if len(p.names) == 0 {
		if p.kind == exactPath {
			p.exact = "/" + strings.Join(p.segments, "/")
		}
	} else if p.kind == exactPath {
		p.kind = paramPath
	}
	return p, nil
}

func (pp *pathParser) segment(p *pattern, s string, mayBeEmpty bool) error {
	if strings.ContainsAny(s, "{}") {
		name, ok := paramName(s)
		if !ok {
			return fmt.Errorf("segment %q: a parameter is a whole segment, {name}, of letters, digits and _", s)
		}
		if slices.Contains(p.names, name) {
			return fmt.Errorf("parameter %q stands there twice", name)
		}
		p.names = append(p.names, name)
		p.segments, p.wild = append(p.segments, ""), append(p.wild, true)
		return nil
	}
	switch {
	case s == "" && !mayBeEmpty:
		return errors.New("has an empty segment; // is / in every request")
	case s == "." || s == "..":
		return fmt.Errorf("has the segment %q, which no request has", s)
	case strings.ContainsAny(s, "?#"):
		return errors.New("has a ? or #; the query is matched by query")
	case strings.Contains(s, ";"):
		return errors.New("has a parameter (;); paths are matched without")
	case strings.Contains(s, "*"):
		return errors.New("has a * that isn't /* at the end")
	}
	canonical, err := pp.canonical(s)
	if err != nil {
		return err
	}
	p.segments, p.wild = append(p.segments, canonical), append(p.wild, false)
	p.literals++
	return nil
}

func (pp *pathParser) canonical(s string) (string, error) {
	if token(s) && !strings.ContainsAny(s, "%.|^`") {
		return s, nil // the usual case: each of these stands for itself in a path
	}
	pp.x.Reset(exchange.HTTP11, &pp.conn, nil)
	pp.x.Method, pp.x.RawHost, pp.x.RawTarget = "GET", "h", "/"+s
	if f := pp.x.Canonicalise(); f != nil {
		return "", fmt.Errorf("can't be in a request: %w", f.Err)
	}
	return strings.Clone(pp.x.Target.Path[1:]), nil
}

// compare orders the paths of one host by precedence; 0: they take the same.
func (p *pattern) compare(q *pattern) int {
	if p.kind != q.kind {
		return cmp.Compare(p.kind, q.kind)
	}
	if p.kind == exactPath {
		return strings.Compare(p.exact, q.exact)
	}
	if c := cmp.Compare(len(q.segments), len(p.segments)); c != 0 && p.kind == prefixPath {
		return c
	}
	if c := cmp.Compare(q.literals, p.literals); c != 0 {
		return c
	}
	for i := range min(len(p.segments), len(q.segments)) {
		switch {
		case p.wild[i] != q.wild[i]:
			if q.wild[i] {
				return -1
			}
			return 1
		case p.segments[i] != q.segments[i]:
			return strings.Compare(p.segments[i], q.segments[i])
		}
	}
	return cmp.Compare(len(p.segments), len(q.segments))
}

// params says where the parameters stand.
func (p *pattern) params() []param {
	if len(p.names) == 0 {
		return nil
	}
	list := make([]param, 0, len(p.names))
	for i, wild := range p.wild {
		if wild {
			list = append(list, param{name: p.names[len(list)], segment: i})
		}
	}
	return list
}

// parseHost returns the entry that a rule's host stands for; wild: it is the
// suffix that follows the "*".
func parseHost(text string) (host string, wild bool, err error) {
	host = text
	switch {
	case text == "*":
		return "", false, errors.New("leave hosts out to take every host")
	case strings.HasPrefix(text, "*."):
		host, wild = text[1:], true
	case strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]"):
		return strings.ToLower(text[1 : len(text)-1]), false, nil
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	name := strings.TrimPrefix(host, ".")
	for label := range strings.SplitSeq(name, ".") {
		if label == "" {
			return "", false, errors.New("has an empty label")
		}
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_':
		case c == ':':
			return "", false, errors.New("has a port; hosts are names without one (an IPv6 address stands in brackets)")
		case c == '*':
			return "", false, errors.New("has a * that isn't the whole first label")
		case c >= 0x80:
			return "", false, errors.New("isn't ASCII; write the name in its xn-- form")
		default:
			return "", false, fmt.Errorf("has the character %q, which no host name has", c)
		}
	}
	if len(name) > 253 {
		return "", false, errors.New("is longer than 253 bytes")
	}
	return host, wild, nil
}
