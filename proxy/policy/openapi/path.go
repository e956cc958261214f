package openapi

import (
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
)

// branch is what may follow at a place of the paths: segments as they are
// before those with variables (OpenAPI 3.1, 4.8.8.2), and of these the ones with
// more of their own text first.
type branch struct {
	item     *Item
	literals map[string]*branch
	patterns []*pattern
}

// pattern is a segment with variables: what stands before, between and behind
// them.
type pattern struct {
	texts []string // one more than there are variables
	next  *branch
}

// add puts an item in its place.
func (b *branch) add(item *Item, at *document.Node) error {
	for segment := range strings.SplitSeq(strings.TrimPrefix(item.Path, "/"), "/") {
		texts, names, err := splitSegment(segment)
		if err != "" {
			return at.Errorf("path %q %s", item.Path, err)
		}
		item.names = append(item.names, names...)
		b = b.next(texts)
	}
	if b.item != nil {
		return at.Errorf("path %q is the same as %q but for the names of its variables", item.Path, b.item.Path)
	}
	b.item = item
	for i, name := range item.names {
		for _, other := range item.names[:i] {
			if name == other {
				return at.Errorf("path %q has the variable {%s} twice", item.Path, name)
			}
		}
	}
	return nil
}

// splitSegment takes a segment with variables apart.
func splitSegment(s string) (texts, names []string, err string) {
	for {
		before, rest, ok := strings.Cut(s, "{")
		if strings.IndexByte(before, '}') >= 0 {
			return nil, nil, "has a } without its {"
		}
		plain, broken := unescape(before)
		if broken {
			return nil, nil, "has a broken escape"
		}
		texts = append(texts, plain)
		if !ok {
			return texts, names, ""
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || name == "" || strings.IndexByte(name, '{') >= 0 {
			return nil, nil, "has a { without its name and }"
		}
		if len(names) > 0 && plain == "" {
			return nil, nil, "has two variables with nothing between them: where one ends, nobody could tell"
		}
		names, s = append(names, name), after
	}
}

func (b *branch) next(texts []string) *branch {
	if len(texts) == 1 {
		if b.literals == nil {
			b.literals = map[string]*branch{}
		}
		if b.literals[texts[0]] == nil {
			b.literals[texts[0]] = &branch{}
		}
		return b.literals[texts[0]]
	}
	own, at := strings.Join(texts, ""), 0
	for at < len(b.patterns) {
		p := b.patterns[at]
		if strings.Join(p.texts, "\x00") == strings.Join(texts, "\x00") {
			return p.next
		}
		if len(strings.Join(p.texts, "")) < len(own) {
			break
		}
		at++
	}
	p := &pattern{texts, &branch{}}
	b.patterns = append(b.patterns[:at], append([]*pattern{p}, b.patterns[at:]...)...)
	return p.next
}

// find walks down a canonical path without its first slash. It looks at no
// place of the tree twice.
func (b *branch) find(c *Check, path string) *Item {
	segment, rest, more := strings.Cut(path, "/")
	plain := segment
	if strings.IndexByte(segment, '%') >= 0 {
		plain, _ = unescape(segment)
	}
	if next := b.literals[plain]; next != nil {
		if item := next.below(c, rest, more); item != nil {
			return item
		}
	}
	have := len(c.values)
	for _, p := range b.patterns {
		if p.match(c, plain) {
			if item := p.next.below(c, rest, more); item != nil {
				return item
			}
		}
		c.values = c.values[:have]
	}
	return nil
}

func (b *branch) below(c *Check, rest string, more bool) *Item {
	if !more {
		return b.item
	}
	return b.find(c, rest)
}

// match finds the variables of a segment: none is empty, each but the last is
// as short as it can be.
func (p *pattern) match(c *Check, s string) bool {
	s, ok := strings.CutPrefix(s, p.texts[0])
	if !ok {
		return false
	}
	last := len(p.texts) - 1
	for i := 1; i < last; i++ {
		if s == "" {
			return false
		}
		end := strings.Index(s[1:], p.texts[i])
		if end < 0 {
			return false
		}
		c.values = append(c.values, s[:end+1])
		s = s[end+1+len(p.texts[i]):]
	}
	if s, ok = strings.CutSuffix(s, p.texts[last]); !ok || s == "" {
		return false
	}
	c.values = append(c.values, s)
	return true
}

// unescape decodes the escapes of a path's segment.
func unescape(s string) (out string, broken bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, false
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
			return s, true
		}
		b = append(b, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
		i += 2
	}
	return string(b), false
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	default:
		return -1
	}
}
