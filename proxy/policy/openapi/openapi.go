// Package openapi reads descriptions of APIs, OpenAPI 3.1 and 3.0
// (https://spec.openapis.org/oas/v3.1.1.html), and tells whether a request or a
// response is as one has it: path, method, parameters, body.
//
// All of a description that says what a request has to be is checked, or the
// description is refused when it is read; nothing of it is passed over. What it
// says of security is for the policies of auth to enforce, and isn't looked at.
// What becomes of a request isn't this package's matter. It starts no
// goroutine.
//
//	openapi.go    the description, and its operations
//	read.go       reading them
//	path.go       which path a request is for
//	parameter.go  reading the parameters of an operation
//	value.go      making values of a request's parameters
//	body.go       bodies, and their media types
//	form.go       bodies that are forms
//	answer.go     responses
package openapi

import (
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/schema"
)

// API is a description. It never changes.
type API struct {
	Title      string
	Operations int
	Bases      []string // paths of its servers, the longest first; "" for a server without one
	// Unreadable are the media types of bodies with a schema that nobody here
	// can check, with what is to be said about it.
	Unreadable map[string]error
	baseError  error // why Bases isn't to be relied on

	paths *branch
	keys  []string // names of security schemes in the query
}

// CheckBases says what is wrong with the servers, for who goes by them.
func (a *API) CheckBases() error { return a.baseError }

// Item is a path of the description.
type Item struct {
	Path  string // as the description has it
	Allow string // its methods, for a response's Allow

	names      []string // of the variables in Path
	operations map[string]*Operation
}

// Operation is a method of a path.
type Operation struct {
	Method     string
	item       *Item
	parameters []*parameter
	known      map[string]bool // names of the query
	deep       []string        // prefixes of names, "filter["
	body       *body           // nil: it takes none
	answers    map[string]*answer
}

// Operation is the one of a method; nil: there is none. HEAD is GET's, unless
// it has its own (RFC 9110, 9.3.2).
func (i *Item) Operation(method string) *Operation {
	if o := i.operations[method]; o != nil || method != "HEAD" {
		return o
	}
	return i.operations["GET"]
}

// Check is the check of one request or response. It may be used again.
type Check struct {
	*schema.Checker
	Strict bool // parameters of the query that the description doesn't have are wrong

	value, part schema.Value
	values      []string // of the path's variables
	query       []pair
	raw         []string
}

// NewCheck returns a check.
func NewCheck() *Check { return &Check{Checker: schema.NewChecker()} }

const keepMost = 256 << 10 // bytes of memory that a check keeps

// Reset makes c ready for another request. It reports whether c is worth
// keeping.
func (c *Check) Reset() bool {
	c.Checker.Reset()
	c.value.Reset()
	c.part.Reset()
	clear(c.values)
	clear(c.query)
	clear(c.raw)
	c.values, c.query, c.raw = c.values[:0], c.query[:0], c.raw[:0]
	return c.value.Size()+c.part.Size()+32*cap(c.query) < keepMost
}

// Find is the item of a path that is below the API's base; nil: it has none.
// The values of its variables stay in c.
func (a *API) Find(c *Check, path string) *Item {
	if path == "" {
		path = "/"
	}
	c.values = c.values[:0]
	return a.paths.find(c, path[1:])
}

// Parameters checks the path's, query's, header's and cookies' parameters of x,
// whose item c found.
func (o *Operation) Parameters(a *API, c *Check, x *exchange.Exchange) {
	c.splitQuery(x.Target.Query)
	for _, p := range o.parameters {
		p.check(c, o.item, x)
	}
	if c.Strict {
		o.unknown(a, c)
	}
}

// unknown finds what the query has and the description hasn't.
func (o *Operation) unknown(a *API, c *Check) {
	for i := range c.query {
		name := c.query[i].name
		if o.known[name] || slices.Contains(a.keys, name) || slices.ContainsFunc(o.deep, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		c.Add("query."+clip(name), "isn't a parameter here")
	}
}

// clip bounds a client's name.
func clip(s string) string { return s[:min(len(s), 100)] }
