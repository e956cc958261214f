package openapi

import (
	"errors"
	"net/url"
	"slices"
	"sort"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
	"github.com/sidegate-proxy/sidegate/proxy/policy/schema"
)

// Files remembers descriptions, so that the routes that use one share it.
type Files = document.Files[API]

// Read reads a description from a file; f may be nil.
func Read(f *Files, path string) (*API, error) { return f.Read(path, parse) }

// maxErrors bounds how much is said of what is wrong.
const maxErrors = 20

// reader reads one description.
type reader struct {
	doc      *document.Document
	old      bool // OpenAPI 3.0
	api      *API
	compiler *schema.Compiler
	errs     []error
	said     map[string]bool // a part that is used in many places has its errors once
}

func (r *reader) fail(err error) {
	if err == nil {
		return
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range j.Unwrap() {
			r.fail(e)
		}
		return
	}
	if text := err.Error(); !r.said[text] {
		r.said[text] = true
		r.errs = append(r.errs, err)
	}
}

// failed joins what is wrong, up to a bound.
func (r *reader) failed() error {
	if n := len(r.errs) - maxErrors; n > 0 {
		return errors.Join(append(r.errs[:maxErrors:maxErrors], r.doc.Root.Errorf("and %d errors more", n))...)
	}
	return errors.Join(r.errs...)
}

func parse(doc *document.Document) (*API, error) {
	root := doc.Root
	if err := root.Want("the description", document.Map); err != nil {
		return nil, err
	}
	r := &reader{doc: doc, api: &API{paths: &branch{}, Unreadable: map[string]error{}}, said: map[string]bool{}}
	if err := r.version(root); err != nil {
		return nil, err
	}
	r.compiler = schema.NewCompiler(doc, r.old)
	r.fields(root, "field of the description", "openapi", "info", "jsonSchemaDialect", "servers", "paths", "webhooks", "components", "security", "tags", "externalDocs")
	if t := root.Get("info").Get("title"); t != nil {
		r.api.Title = t.Text
	}
	if d := root.Get("jsonSchemaDialect"); d != nil && d.Text != "https://spec.openapis.org/oas/3.1/dialect/base" && d.Text != "https://json-schema.org/draft/2020-12/schema" {
		r.fail(d.Errorf("the dialect %q isn't supported", d.Text))
	}
	r.keys(root.Get("components").Get("securitySchemes"))
	r.servers(root)
	r.paths(root.Get("paths"))
	if r.errs == nil {
		r.fail(r.compiler.Check())
	}
	if r.errs != nil {
		return nil, r.failed()
	}
	return r.api, nil
}

// version reads which OpenAPI it is.
func (r *reader) version(root *document.Node) error {
	v := root.Get("openapi")
	switch {
	case v == nil && root.Get("swagger") != nil:
		return root.Get("swagger").Errorf("OpenAPI 2.0 (Swagger) isn't supported: convert it to 3.1")
	case v == nil:
		return root.Errorf("it lacks the field openapi, which says that it is a description: openapi: 3.1.0")
	case v.Text == "3.1", strings.HasPrefix(v.Text, "3.1."):
		return nil
	case v.Text == "3.0", strings.HasPrefix(v.Text, "3.0."):
		r.old = true
		return nil
	default:
		return v.Errorf("OpenAPI %q isn't supported: it has to be 3.1.x or 3.0.x", v.Text)
	}
}

// fields refuses what an object of OpenAPI doesn't have.
func (r *reader) fields(n *document.Node, what string, known ...string) {
	if n == nil {
		return
	}
	if n.Kind != document.Map {
		r.fail(n.Want("what has to be an object of OpenAPI", document.Map))
		return
	}
	for i, key := range n.Keys {
		if !strings.HasPrefix(key, "x-") && !slices.Contains(known, key) {
			r.fail(n.Unknown(i, what, known))
		}
	}
}

// keys notes the names that security schemes have in the query, which are known
// parameters.
func (r *reader) keys(schemes *document.Node) {
	if schemes == nil {
		return
	}
	for _, s := range schemes.Items {
		s, err := r.doc.Follow(s)
		if err != nil {
			r.fail(err)
			continue
		}
		if in, name := s.Get("in"), s.Get("name"); in != nil && in.Text == "query" && name != nil {
			r.api.keys = append(r.api.keys, name.Text)
		}
	}
}

// servers reads the paths of the servers, which stand before those of the
// description.
func (r *reader) servers(root *document.Node) {
	list := root.Get("servers")
	if list == nil || len(list.Items) == 0 {
		r.api.Bases = []string{""}
		return
	}
	for _, s := range list.Items {
		u := s.Get("url")
		if u == nil || u.Kind != document.String {
			r.fail(s.Errorf("a server lacks its url"))
			continue
		}
		text := u.Text
		if vars := s.Get("variables"); vars != nil {
			for i, name := range vars.Keys {
				if d := vars.Items[i].Get("default"); d != nil {
					text = strings.ReplaceAll(text, "{"+name+"}", d.Text)
				}
			}
		}
		parsed, err := url.Parse(text)
		if err != nil || parsed.RawQuery != "" || parsed.Fragment != "" || strings.ContainsAny(parsed.Path, "{}") {
			r.base(u.Errorf("the server's url %q isn't one that a path can be taken from: set base_path", u.Text))
			continue
		}
		base := strings.TrimSuffix(parsed.EscapedPath(), "/")
		if base != "" && base[0] != '/' {
			base = "/" + base
		}
		if !slices.Contains(r.api.Bases, base) {
			r.api.Bases = append(r.api.Bases, base)
		}
	}
	sort.SliceStable(r.api.Bases, func(i, j int) bool { return len(r.api.Bases[i]) > len(r.api.Bases[j]) })
}

// base notes what is wrong for who goes by the servers.
func (r *reader) base(err error) {
	if r.api.baseError == nil {
		r.api.baseError = err
	}
}

var methods = []string{"get", "put", "post", "delete", "options", "head", "patch", "trace"}

func (r *reader) paths(paths *document.Node) {
	if paths == nil {
		r.fail(r.doc.Root.Errorf("it has no paths"))
		return
	}
	if err := paths.Want("paths", document.Map); err != nil {
		r.fail(err)
		return
	}
	for i, path := range paths.Keys {
		if strings.HasPrefix(path, "x-") {
			continue
		}
		n := paths.Items[i]
		if !strings.HasPrefix(path, "/") {
			r.fail(n.Errorf("path %q doesn't start with /", path))
			continue
		}
		item := &Item{Path: path, operations: map[string]*Operation{}}
		if err := r.api.paths.add(item, n); err != nil {
			r.fail(err)
			continue
		}
		r.item(item, n)
	}
}

func (r *reader) item(item *Item, n *document.Node) {
	n, err := r.doc.Follow(n)
	if err != nil {
		r.fail(err)
		return
	}
	r.fields(n, "field of a path", append([]string{"$ref", "summary", "description", "servers", "parameters"}, methods...)...)
	if s := n.Get("servers"); s != nil {
		r.base(s.Errorf("servers of one path aren't supported: set base_path"))
	}
	before := len(r.errs)
	shared := r.parameters(item, n.Get("parameters"))
	for i, key := range n.Keys {
		if !slices.Contains(methods, key) {
			continue
		}
		o := r.operation(item, n.Items[i], shared, before)
		o.Method = strings.ToUpper(key)
		item.operations[o.Method] = o
		r.api.Operations++
	}
	var allow []string
	for m := range item.operations {
		allow = append(allow, m)
	}
	if item.operations["GET"] != nil && item.operations["HEAD"] == nil {
		allow = append(allow, "HEAD")
	}
	slices.Sort(allow)
	item.Allow = strings.Join(allow, ", ")
}

// operation reads one. Where there were more errors than before, what is said to
// be missing may be what is wrong.
func (r *reader) operation(item *Item, n *document.Node, shared []*parameter, before int) *Operation {
	o := &Operation{item: item, known: map[string]bool{}}
	r.fields(n, "field of an operation", "tags", "summary", "description", "externalDocs", "operationId", "parameters", "requestBody", "responses", "callbacks", "deprecated", "security", "servers")
	if s := n.Get("servers"); s != nil {
		r.base(s.Errorf("servers of one operation aren't supported: set base_path"))
	}
	own := r.parameters(item, n.Get("parameters"))
	for _, p := range shared {
		if !slices.ContainsFunc(own, p.is) {
			o.parameters = append(o.parameters, p)
		}
	}
	o.parameters = append(o.parameters, own...)
	for i, name := range item.names {
		if len(r.errs) == before && !slices.ContainsFunc(o.parameters, func(p *parameter) bool { return p.in == inPath && p.variable == i }) {
			r.fail(n.Errorf("the path's variable {%s} isn't among the parameters", name))
		}
	}
	for _, p := range o.parameters {
		p.names(o)
	}
	if b := n.Get("requestBody"); b != nil {
		o.body = r.body(b)
	}
	o.answers = r.answers(n.Get("responses"))
	return o
}
