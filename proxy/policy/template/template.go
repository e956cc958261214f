// Package template expands {placeholders} in the values of the configuration:
// header fields that policies set, and where redirects lead. It isn't a
// language: no conditions, no functions. It starts no goroutine.
//
// The placeholders:
//
//	{scheme} {host} {path} {query}   the canonical target; {query} with its "?", "" without one;
//	                                 {path} of OPTIONS * is "/"
//	{method} {client_ip} {request_id}
//	{route} {service}                names; {service} is "" as long as none is chosen
//	{consumer.name} {consumer.plan}  "" without a consumer
//	{consumer.labels.NAME}           "" without that label
//	{claims.NAME}                    of the verified token, lists and objects as JSON; "" without that claim;
//	                                 NAME is a.b for b in the object a
//	{param.NAME}, or {NAME}          a parameter of the route's path, as it stands there
//
// {{ and }} stand for { and }.
package template

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Kind is what a part of a template stands for.
type Kind uint8

// The kinds of parts.
const (
	Literal Kind = iota
	Scheme
	Host
	Path
	Query
	Method
	ClientIP
	RequestID
	Route
	Service
	ConsumerName
	ConsumerPlan
	ConsumerLabel
	Claim
	Param
)

// Part is a piece of a template.
type Part struct {
	Kind Kind
	Text string // of a literal; the name of a parameter, label or claim
}

// Template is a compiled text. It never changes.
type Template struct{ parts []Part }

func placeholder(name string) (Kind, bool) {
	switch name {
	case "scheme":
		return Scheme, true
	case "host":
		return Host, true
	case "path":
		return Path, true
	case "query":
		return Query, true
	case "method":
		return Method, true
	case "client_ip":
		return ClientIP, true
	case "request_id":
		return RequestID, true
	case "route":
		return Route, true
	case "service":
		return Service, true
	case "consumer.name":
		return ConsumerName, true
	case "consumer.plan":
		return ConsumerPlan, true
	default:
		return Literal, false
	}
}

// Compile compiles a text. A name that is no placeholder is taken for a path
// parameter, if it can be one: see Params.
func Compile(text string) (*Template, error) {
	t := &Template{}
	literal := []byte{}
	flush := func() {
		if len(literal) > 0 {
			t.parts = append(t.parts, Part{Literal, string(literal)})
			literal = literal[:0]
		}
	}
	for i := 0; i < len(text); i++ {
		c := text[i]
		if (c == '{' || c == '}') && i+1 < len(text) && text[i+1] == c {
			literal = append(literal, c)
			i++
			continue
		}
		switch c {
		default:
			literal = append(literal, c)
		case '}':
			return nil, fmt.Errorf("%q: a } without its {; }} stands for one", text)
		case '{':
			end := strings.IndexByte(text[i:], '}')
			if end < 0 {
				return nil, fmt.Errorf("%q: a { without its }; {{ stands for one", text)
			}
			part, err := parsePart(text[i+1 : i+end])
			if err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
			flush()
			t.parts = append(t.parts, part)
			i += end
		}
	}
	flush()
	return t, nil
}

func parsePart(name string) (Part, error) {
	if kind, ok := placeholder(name); ok {
		return Part{Kind: kind}, nil
	}
	if label, ok := strings.CutPrefix(name, "consumer.labels."); ok && label != "" {
		return Part{ConsumerLabel, label}, nil
	}
	if claim, ok := strings.CutPrefix(name, "claims."); ok && claim != "" {
		return Part{Claim, claim}, nil
	}
	param := strings.TrimPrefix(name, "param.")
	for i := range len(param) {
		c := param[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			param = ""
			break
		}
	}
	if param == "" {
		return Part{}, fmt.Errorf("unknown placeholder {%s}", name)
	}
	return Part{Param, param}, nil
}

// Parts returns what the template is made of; nobody may change it.
func (t *Template) Parts() []Part { return t.parts }

// Constant returns the text of a template without placeholders.
func (t *Template) Constant() (string, bool) {
	switch {
	case len(t.parts) == 0:
		return "", true
	case len(t.parts) == 1 && t.parts[0].Kind == Literal:
		return t.parts[0].Text, true
	default:
		return "", false
	}
}

// Params returns the path parameters that the template reads.
func (t *Template) Params() []string {
	var names []string
	for _, p := range t.parts {
		if p.Kind == Param && !slices.Contains(names, p.Text) {
			names = append(names, p.Text)
		}
	}
	return names
}

// Identifies reports whether the template says who is calling: what a client
// must not be able to say of itself.
func (t *Template) Identifies() bool {
	return slices.ContainsFunc(t.parts, func(p Part) bool {
		return p.Kind == ConsumerName || p.Kind == ConsumerPlan || p.Kind == ConsumerLabel || p.Kind == Claim
	})
}

// Append appends the expansion for x to dst.
func (t *Template) Append(dst []byte, x *exchange.Exchange) []byte {
	for i := range t.parts {
		dst = t.parts[i].append(dst, x)
	}
	return dst
}

func (p *Part) append(dst []byte, x *exchange.Exchange) []byte {
	switch p.Kind {
	case Literal:
		return append(dst, p.Text...)
	case Scheme:
		return append(dst, x.Target.Scheme...)
	case Host:
		if strings.IndexByte(x.Target.Host, ':') >= 0 {
			return append(append(append(dst, '['), x.Target.Host...), ']')
		}
		return append(dst, x.Target.Host...)
	case Path:
		if x.Target.Path == "*" {
			return append(dst, '/')
		}
		return append(dst, x.Target.Path...)
	case Query:
		if x.Target.HasQuery {
			dst = append(append(dst, '?'), x.Target.Query...)
		}
		return dst
	case Method:
		return append(dst, x.Method...)
	case ClientIP:
		if x.ClientIP.IsValid() {
			dst = x.ClientIP.Unmap().AppendTo(dst)
		}
		return dst
	case RequestID:
		return append(dst, x.RequestID...)
	case Route:
		return append(dst, x.RouteName...)
	case Service:
		return append(dst, x.ServiceName...)
	case ConsumerName:
		if x.Consumer != nil {
			dst = append(dst, x.Consumer.Name...)
		}
		return dst
	case ConsumerPlan:
		return append(dst, x.Consumer.PlanName()...)
	case ConsumerLabel:
		if x.Consumer != nil {
			dst = append(dst, x.Consumer.Labels[p.Text]...)
		}
		return dst
	case Claim:
		return append(dst, x.Claims.Text(p.Text)...)
	case Param:
		for i := range x.Params {
			if x.Params[i].Name == p.Text {
				return append(dst, x.Params[i].Value...)
			}
		}
	}
	return dst
}
