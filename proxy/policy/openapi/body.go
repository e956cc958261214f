package openapi

import (
	"cmp"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
	"github.com/sidegate-proxy/sidegate/proxy/policy/schema"
)

// bodyKind is how a body is read.
type bodyKind uint8

const (
	opaque bodyKind = iota // it isn't: its media type is all that is looked at
	jsonBody
	formBody
	partsBody
	textBody
)

// kindOf is how bodies of a media type, in small letters, are read.
func kindOf(t string) bodyKind {
	t, _, _ = strings.Cut(t, ";")
	switch t = strings.TrimSpace(t); {
	case t == "application/json", strings.HasSuffix(t, "+json"):
		return jsonBody
	case t == "application/x-www-form-urlencoded":
		return formBody
	case t == "multipart/form-data":
		return partsBody
	case strings.HasPrefix(t, "text/") && t != "text/xml" && t != "text/*":
		return textBody
	default:
		return opaque
	}
}

// body is an operation's.
type body struct {
	required bool
	media    []*media
	accept   string // for a response's Accept
}

// media is a body of one media type, or of a range of them.
type media struct {
	name   string            // "application/json", "text/*", "*/*"
	params map[string]string // that it has to have, too
	kind   bodyKind
	schema *schema.Schema // nil: nothing is said of it
	form   *formSpec      // of forms
}

func (r *reader) body(n *document.Node) *body {
	n, err := r.doc.Follow(n)
	if err != nil {
		r.fail(err)
		return nil
	}
	r.fields(n, "field of a requestBody", "description", "content", "required")
	b := &body{required: n.Get("required").True()}
	content := n.Get("content")
	if content == nil || content.Kind != document.Map || len(content.Keys) == 0 {
		r.fail(n.Errorf("a requestBody lacks its content"))
		return b
	}
	b.media = r.mediaTypes(content, true)
	var names []string
	for _, m := range b.media {
		names = append(names, m.String())
	}
	b.accept = strings.Join(names, ", ")
	return b
}

// mediaTypes reads the media types of a request's body, or of a response's, of
// which only JSON is looked at.
func (r *reader) mediaTypes(content *document.Node, request bool) []*media {
	var list []*media
	for i, key := range content.Keys {
		n := content.Items[i]
		r.fields(n, "field of a media type", "schema", "example", "examples", "encoding")
		name, params, err := mime.ParseMediaType(key)
		if err != nil || strings.Count(name, "/") != 1 {
			r.fail(n.Errorf("%q isn't a media type", key))
			continue
		}
		if strings.EqualFold(params["charset"], "utf-8") {
			delete(params, "charset") // it goes without saying
		}
		if slices.ContainsFunc(list, func(m *media) bool { return m.name == name && maps.Equal(m.params, params) }) {
			r.fail(n.Errorf("the media type %q stands here for the second time", name))
		}
		m := &media{name: name, params: params, kind: kindOf(name)}
		if s := n.Get("schema"); s != nil && (request || m.kind == jsonBody) {
			m.schema, err = r.compiler.Compile(s)
			r.fail(err)
			if err == nil && request {
				r.readable(m, n)
			}
		}
		list = append(list, m)
	}
	// The more precise one counts: application/json before application/*, and the
	// one with parameters before that without.
	slices.SortStableFunc(list, func(a, b *media) int {
		return cmp.Or(strings.Count(a.name, "*")-strings.Count(b.name, "*"), len(b.params)-len(a.params))
	})
	return list
}

// readable notes bodies that a schema describes and nobody here can read.
func (r *reader) readable(m *media, n *document.Node) {
	if m.kind == formBody || m.kind == partsBody || strings.Contains(m.name, "*") && m.schema.Shape().Object {
		m.form = r.form(m, n)
	}
	if m.kind == opaque && !m.schema.Binary() {
		r.api.Unreadable[m.name] = n.Errorf("bodies of the type %q can't be checked against a schema: only JSON, forms and text can", m.name)
	}
}

// Verdict is what a body's media type leads to.
type Verdict uint8

// The verdicts.
const (
	Readable    Verdict = iota // it can be checked
	Unchecked                  // nothing more is to be looked at
	Missing                    // there has to be a body
	Superfluous                // there may be none
	WrongType                  // of this type none may be
	WrongCoding                // it is compressed
)

// Content is a body's media type in an operation.
type Content struct {
	media *media
	kind  bodyKind
	bound string // of multipart
}

// Accept names the media types that the operation takes.
func (o *Operation) Accept() string {
	if o.body == nil {
		return ""
	}
	return o.body.accept
}

// Content says by the request's head what its body is to be checked by; there
// tells that it has one.
func (o *Operation) Content(x *exchange.Exchange, there bool) (Content, Verdict) {
	h := &x.Request
	switch {
	case !there && o.body != nil && o.body.required:
		return Content{}, Missing
	case !there:
		return Content{}, Unchecked
	case o.body == nil:
		return Content{}, Superfluous
	case h.Count(exchange.ContentType) != 1:
		return Content{}, WrongType
	}
	name, params, ok := mediaType(h.Get(exchange.ContentType))
	m := find(o.body.media, name, params)
	if !ok || m == nil {
		return Content{}, WrongType
	}
	kind := m.kind
	if kind == opaque && m.schema != nil && !m.schema.Binary() && name != m.name {
		// What a range such as */* takes is read by what it is.
		if kind = kindOf(name); m.form == nil && (kind == formBody || kind == partsBody) {
			kind = opaque
		}
	}
	c := Content{media: m, kind: kind, bound: params["boundary"]}
	if m.schema == nil && kind != jsonBody {
		return c, Unchecked
	}
	if charset := params["charset"]; charset != "" && kind != opaque && !exchange.EqualFold(charset, "utf-8") && !exchange.EqualFold(charset, "us-ascii") {
		return c, WrongType
	}
	if kind == opaque {
		return c, Unchecked
	}
	if kind == partsBody && c.bound == "" {
		return c, WrongType
	}
	if n := h.Count(exchange.ContentEncoding); n > 1 || n == 1 && !exchange.EqualFold(h.Get(exchange.ContentEncoding), "identity") {
		return c, WrongCoding
	}
	return c, Readable
}

// mediaType reads a Content-Type; the name is in small letters.
func mediaType(s string) (name string, params map[string]string, ok bool) {
	if s == "application/json" {
		return s, nil, true
	}
	name, params, err := mime.ParseMediaType(s)
	return name, params, err == nil && strings.IndexByte(name, '/') > 0
}

// find is the media type of a list that takes name and its parameters.
func find(list []*media, name string, params map[string]string) *media {
	kind, _, _ := strings.Cut(name, "/")
	for _, m := range list {
		prefix, wild := strings.CutSuffix(m.name, "/*")
		if (m.name == name || wild && (prefix == "*" || prefix == kind)) && m.has(params) {
			return m
		}
	}
	return nil
}

// has reports whether all parameters that m has to have are among these.
func (m *media) has(params map[string]string) bool {
	for k, v := range m.params {
		if params[k] != v {
			return false
		}
	}
	return true
}

// String is the media type as a field of the head has it.
func (m *media) String() string { return mime.FormatMediaType(m.name, m.params) }

// Body checks a body that is Readable.
func (c *Check) Body(o Content, text string) {
	v := &c.value
	v.Reset()
	switch o.kind {
	case jsonBody:
		if err := v.Parse(text); err != nil {
			c.Add("body", err.Error())
			return
		}
		if o.media.schema != nil {
			c.Check(o.media.schema, v, "body")
		}
	case formBody:
		c.form(o.media, text)
	case partsBody:
		c.parts(o.media, o.bound, text)
	default:
		if !utf8.ValidString(text) {
			c.Add("body", "isn't UTF-8")
			return
		}
		v.Text(text)
		c.Check(o.media.schema, v, "body")
	}
}

// String says what a verdict is, for a log.
func (v Verdict) String() string {
	switch v {
	case Missing:
		return "the body is missing"
	case Superfluous:
		return "the operation takes no body"
	case WrongType:
		return "the operation takes no body of such a media type"
	case WrongCoding:
		return "the body is compressed, and can't be checked"
	default:
		return fmt.Sprintf("verdict %d", uint8(v))
	}
}
