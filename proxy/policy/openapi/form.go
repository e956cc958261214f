package openapi

import (
	"errors"
	"io"
	"mime/multipart"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
)

// formSpec says how the members of a form's object come.
type formSpec struct {
	arrays map[string]bool     // those that may come again and again
	json   map[string]bool     // those whose values are JSON
	types  map[string][]string // media types that a part may have; none: any
}

// form reads what a description says of a form's fields.
func (r *reader) form(m *media, n *document.Node) *formSpec {
	f := &formSpec{arrays: map[string]bool{}, json: map[string]bool{}, types: map[string][]string{}}
	if shape := m.schema.Shape(); !shape.Object {
		r.fail(n.Errorf("the schema of a form has to be one of an object"))
		return f
	}
	for name, s := range m.schema.Properties() {
		shape := s.Shape()
		switch {
		case all(shape):
		case shape.Array:
			f.arrays[name] = true
			if items := s.Items(); items != nil {
				inner := items.Shape()
				f.json[name] = !inner.Single && inner.Object
			}
		case shape.Object && !shape.Single: // OpenAPI 3.1, 4.8.15.1.1: JSON unless something else is said
			f.json[name] = true
		}
	}
	encoding := n.Get("encoding")
	if encoding == nil {
		return f
	}
	for i, name := range encoding.Keys {
		r.encoding(f, m, name, encoding.Items[i])
	}
	return f
}

// encoding reads an Encoding Object.
func (r *reader) encoding(f *formSpec, m *media, name string, n *document.Node) {
	r.fields(n, "field of an encoding", "contentType", "headers", "style", "explode", "allowReserved")
	if h := n.Get("headers"); h != nil {
		r.fail(h.Errorf("headers of a part aren't supported"))
	}
	if s := n.Get("style"); s != nil && s.Text != "form" {
		r.fail(s.Errorf("style %s of a form's field isn't supported: form is", s.Text))
	}
	if e := n.Get("explode"); e != nil && !e.True() {
		r.fail(e.Errorf("explode: false of a form's field isn't supported"))
	}
	t := n.Get("contentType")
	if t == nil {
		return
	}
	for one := range strings.SplitSeq(strings.ToLower(t.Text), ",") {
		f.types[name] = append(f.types[name], strings.TrimSpace(one))
	}
	kind := kindOf(f.types[name][0])
	switch {
	case kind == jsonBody && len(f.types[name]) == 1:
		f.json[name] = true
	case f.json[name]:
		r.fail(t.Errorf("the field %q is an object, and %q can't be checked", name, t.Text))
	case m.kind == formBody && kind != textBody:
		r.fail(t.Errorf("the type %q of a form's field isn't supported", t.Text))
	}
}

// field adds the value of a field to c.value.
func (c *Check) field(f *formSpec, name, text string, binary bool) bool {
	switch {
	case f.json[name]:
		if err := c.part.Parse(text); err != nil {
			c.Add("body/"+clip(name), err.Error())
			return false
		}
		c.value.Graft(&c.part)
	case binary:
		c.value.Bytes(text)
	default:
		c.value.Text(text)
	}
	return true
}

// form checks a form of the kind application/x-www-form-urlencoded.
func (c *Check) form(m *media, text string) {
	var list []pair
	for text != "" {
		var one string
		one, text, _ = strings.Cut(text, "&")
		if one == "" {
			continue
		}
		if len(list) == maxPairs {
			c.Add("body", "has too many fields")
			return
		}
		name, value, _ := strings.Cut(one, "=")
		name, fine := c.plain(name, true)
		value, ok := c.plain(value, true)
		if !fine || !ok {
			c.Add("body", notText)
			return
		}
		list = append(list, pair{name, value})
	}
	if c.group("body", list, m.form.arrays, func(i int) bool { return c.field(m.form, list[i].name, list[i].value, false) }) {
		c.Check(m.schema, &c.value, "body")
	}
}

// parts checks a form of the kind multipart/form-data (RFC 7578).
func (c *Check) parts(m *media, bound, text string) {
	if !alone(text, "--"+bound) {
		c.Add("body", "has something before its first part or behind its last")
		return
	}
	var list []pair
	var files []bool
	in := multipart.NewReader(strings.NewReader(text), bound)
	for {
		p, err := in.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || len(list) == maxPairs {
			c.Add("body", "isn't multipart/form-data, or has too many parts")
			return
		}
		name := p.FormName()
		b, err := io.ReadAll(p)
		if err != nil || name == "" || len(p.Header["Content-Disposition"]) != 1 {
			c.Add("body", "has a part that is broken or lacks its one name")
			return
		}
		file := p.FileName() != ""
		if !c.partType(m.form, name, p.Header["Content-Type"], p.Header["Content-Transfer-Encoding"]) {
			return
		}
		if !file && !utf8.Valid(b) {
			c.Add("body/"+clip(name), "isn't UTF-8")
			return
		}
		list, files = append(list, pair{name, string(b)}), append(files, file)
	}
	if c.group("body", list, m.form.arrays, func(i int) bool { return c.field(m.form, list[i].name, list[i].value, files[i]) }) {
		c.Check(m.schema, &c.value, "body")
	}
}

// alone reports whether there is nothing but line ends before the first of the
// parts and behind the last: some services look for further ones there.
func alone(text, bound string) bool {
	text, ok := strings.CutPrefix(strings.TrimLeft(text, "\r\n"), bound)
	behind, none := strings.CutPrefix(text, "--")
	if !none {
		_, behind, _ = strings.Cut(text, "\n"+bound+"--")
	}
	return ok && strings.TrimSpace(behind) == ""
}

// partType checks what a part says of itself.
func (c *Check) partType(f *formSpec, name string, types, codings []string) bool {
	where := "body/" + clip(name)
	if len(codings) > 0 && (len(codings) > 1 || !slices.Contains([]string{"7bit", "8bit", "binary"}, strings.ToLower(codings[0]))) {
		c.Add(where, "has a Content-Transfer-Encoding (RFC 7578, 4.7)")
		return false
	}
	allowed := f.types[name]
	if len(types) == 0 && len(allowed) == 0 {
		return true
	}
	t := "text/plain" // RFC 7578, 4.4
	if len(types) > 0 {
		var ok bool
		if t, _, ok = mediaType(types[0]); !ok || len(types) > 1 {
			c.Add(where, "has a broken Content-Type")
			return false
		}
	}
	if f.json[name] && len(types) > 0 && kindOf(t) != jsonBody {
		c.Add(where, "has to be of the type application/json")
		return false
	}
	if len(allowed) == 0 || f.json[name] {
		return true
	}
	for _, a := range allowed {
		prefix, wild := strings.CutSuffix(a, "*")
		if a == t || wild && strings.HasPrefix(t, strings.TrimPrefix(prefix, "*/")) {
			return true
		}
	}
	c.Add(where, "has to be of the type "+strings.Join(allowed, ", "))
	return false
}
