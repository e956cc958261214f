package openapi

import (
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
	"github.com/sidegate-proxy/sidegate/proxy/policy/schema"
)

// place is where a parameter stands.
type place uint8

const (
	inPath place = iota
	inQuery
	inHeader
	inCookie
)

var places = []string{"path", "query", "header", "cookie"}

// style is how a list or an object becomes text.
type style uint8

const (
	simple    style = iota // a,b
	form                   // name=a,b or name=a&name=b
	spaced                 // a b
	piped                  // a|b
	deep                   // name[a]=1&name[b]=2
	asContent              // JSON
)

var styles = []string{"simple", "form", "spaceDelimited", "pipeDelimited", "deepObject"}

// parameter is one of an operation.
type parameter struct {
	in       place
	name     string
	where    string // for what is said about it: "query.limit"
	required bool
	empty    bool // allowEmptyValue
	style    style
	explode  bool
	schema   *schema.Schema
	shape    schema.Shape
	members  map[string]*schema.Schema // of an object
	arrays   map[string]bool           // members that are arrays
	variable int                       // place of the path's variable
}

func (r *reader) parameters(item *Item, n *document.Node) []*parameter {
	if n == nil {
		return nil
	}
	if err := n.Want("parameters", document.List); err != nil {
		r.fail(err)
		return nil
	}
	var list []*parameter
	for _, one := range n.Items {
		one, err := r.doc.Follow(one)
		if err != nil {
			r.fail(err)
			continue
		}
		p := r.parameter(item, one)
		if p == nil {
			continue
		}
		if slices.ContainsFunc(list, p.is) {
			r.fail(one.Errorf("the parameter %s stands here for the second time", p.where))
		}
		list = append(list, p)
	}
	return list
}

// is reports whether o is the same parameter; fields of the head have no case.
func (p *parameter) is(o *parameter) bool {
	return o.in == p.in && (o.name == p.name || p.in == inHeader && strings.EqualFold(o.name, p.name))
}

// parameter reads a Parameter Object; nil: it has an error, or no meaning.
func (r *reader) parameter(item *Item, n *document.Node) *parameter {
	r.fields(n, "field of a parameter", "name", "in", "description", "required", "deprecated", "allowEmptyValue", "style", "explode", "allowReserved", "schema", "example", "examples", "content")
	name, in := n.Get("name"), n.Get("in")
	if name == nil || name.Kind != document.String || in == nil {
		r.fail(n.Errorf("a parameter lacks its name or in"))
		return nil
	}
	at := slices.Index(places, in.Text)
	if at < 0 {
		r.fail(in.Errorf("in has to be path, query, header or cookie, and is %q%s", in.Text, document.Suggest(in.Text, places)))
		return nil
	}
	p := &parameter{in: place(at), name: name.Text, where: in.Text + "." + name.Text, required: n.Get("required").True(), empty: n.Get("allowEmptyValue").True()}
	switch p.in {
	case inHeader: // OpenAPI 3.1, 4.8.12.1: these have no meaning there
		if slices.Contains([]string{"accept", "content-type", "authorization"}, strings.ToLower(p.name)) {
			return nil
		}
	case inPath:
		p.variable = slices.Index(item.names, p.name)
		if p.variable < 0 {
			r.fail(n.Errorf("the path %s has no variable {%s}", item.Path, p.name))
			return nil
		}
		if !p.required {
			r.fail(n.Errorf("a parameter of the path has to say required: true"))
		}
	}
	if !r.content(p, n) {
		return nil
	}
	return p
}

// content reads what a parameter's values are.
func (r *reader) content(p *parameter, n *document.Node) bool {
	s, content := n.Get("schema"), n.Get("content")
	if (s == nil) == (content == nil) {
		r.fail(n.Errorf("the parameter %s has to have either a schema or content", p.where))
		return false
	}
	if content != nil {
		if len(content.Keys) != 1 {
			r.fail(content.Errorf("content of a parameter has to have one media type"))
			return false
		}
		if kindOf(content.Keys[0]) != jsonBody {
			r.fail(content.Errorf("the parameter %s: %q can't be checked, only JSON can", p.where, content.Keys[0]))
			return false
		}
		p.style = asContent
		if s = content.Items[0].Get("schema"); s == nil {
			p.schema = &schema.Schema{}
			return true
		}
	}
	compiled, err := r.compiler.Compile(s)
	p.schema = compiled
	r.fail(err)
	if err != nil || content != nil {
		return err == nil
	}
	p.shape = compiled.Shape()
	return r.styleOf(p, n)
}

// styleOf reads style and explode, and refuses what can't be told apart.
func (r *reader) styleOf(p *parameter, n *document.Node) bool {
	p.style = simple
	allowed := []style{simple}
	switch p.in {
	case inQuery:
		p.style, allowed = form, []style{form, spaced, piped, deep}
	case inCookie:
		p.style, allowed = form, []style{form}
	}
	if s := n.Get("style"); s != nil {
		i := slices.Index(styles, s.Text)
		switch {
		case s.Text == "matrix" || s.Text == "label":
			r.fail(s.Errorf("style %s isn't supported", s.Text))
			return false
		case i < 0:
			r.fail(s.Errorf("there is no style %q%s", s.Text, document.Suggest(s.Text, styles)))
			return false
		case !slices.Contains(allowed, style(i)):
			r.fail(s.Errorf("style %s doesn't go with in: %s", s.Text, places[p.in]))
			return false
		}
		p.style = style(i)
	}
	p.explode = p.style == form
	if e := n.Get("explode"); e != nil {
		p.explode = e.True()
	}
	switch lists := p.shape.Array; {
	case p.style == deep && !p.shape.Object:
		r.fail(n.Errorf("style deepObject is for objects, and %s isn't one", p.where))
		return false
	case p.style == deep || all(p.shape):
		// Nothing is said of what it is: it is text.
		p.shape.Single = p.style != deep
		p.shape.Array, p.shape.Object = false, p.style == deep
	case p.shape.Object && (p.shape.Single || lists):
		r.fail(n.Errorf("%s may be an object and something else, which no request could tell apart", p.where))
		return false
	case p.shape.Single && lists && !(p.style == form && p.explode):
		r.fail(n.Errorf("%s may be a list and a single value, which no request could tell apart", p.where))
		return false
	}
	if p.shape.Object {
		p.members, p.arrays = p.schema.Properties(), map[string]bool{}
		for name, s := range p.members {
			p.arrays[name] = s.Shape().Array && !all(s.Shape())
		}
	}
	return true
}

func all(s schema.Shape) bool { return s.Single && s.Array && s.Object }

// names notes which names of the query are p's.
func (p *parameter) names(o *Operation) {
	if p.in != inQuery {
		return
	}
	switch {
	case p.style == deep:
		o.deep = append(o.deep, p.name+"[")
	case p.shape.Object && p.explode:
		for name := range p.members {
			o.known[name] = true
		}
	default:
		o.known[p.name] = true
	}
}
