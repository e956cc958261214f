package condition

import (
	"reflect"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// activation gives an expression the variables that it asks for, when it asks.
type activation struct {
	x       *exchange.Exchange
	headers textMap
	query   textMap
	claims  claimMap
	answer  textMap // the response's header fields, once they are asked for
	sizes   Sizes
}

var _ interpreter.Activation = (*activation)(nil)

func (a *activation) set(x *exchange.Exchange) {
	a.x = x
	a.headers = textMap{x: x, source: findHeader, all: allHeaders}
	a.query = textMap{x: x, source: findQuery, all: allQuery}
	a.claims = claimMap{}
	if x != nil {
		a.claims.values = x.Claims.Values()
	}
}

// Parent is none.
func (a *activation) Parent() interpreter.Activation { return nil }

// ResolveName returns a variable.
func (a *activation) ResolveName(name string) (any, bool) {
	x := a.x
	switch name {
	case "request.method":
		return types.String(x.Method), true
	case "request.host":
		return types.String(x.Target.Host), true
	case "request.path":
		return types.String(x.Target.WithoutParameters()), true
	case "request.client_ip":
		if !x.ClientIP.IsValid() {
			return types.String(""), true
		}
		return types.String(x.ClientIP.Unmap().String()), true
	case "request.protocol":
		return types.String(x.Proto.String()), true
	case "request.headers":
		return &a.headers, true
	case "request.query":
		return &a.query, true
	case "request.tls":
		return types.Bool(x.Conn != nil && x.Conn.Scheme == "https"), true
	case "request.peer":
		if x.Conn == nil {
			return types.String(""), true
		}
		return types.String(x.Conn.Peer), true
	case "consumer.name":
		if x.Consumer == nil {
			return types.String(""), true
		}
		return types.String(x.Consumer.Name), true
	case "consumer.plan":
		return types.String(x.Consumer.PlanName()), true
	case "consumer.labels":
		if x.Consumer == nil {
			return types.NewStringStringMap(types.DefaultTypeAdapter, nil), true
		}
		return types.NewStringStringMap(types.DefaultTypeAdapter, x.Consumer.Labels), true
	case "claims":
		return &a.claims, true
	case responseStatus:
		return types.Int(x.Status), true
	case responseHeaders:
		a.answer = textMap{x: x, source: findAnswer, all: allAnswer}
		return &a.answer, true
	case responseIn:
		return types.Int(a.sizes.In), true
	case responseOut:
		return types.Int(a.sizes.Out), true
	default:
		return nil, false
	}
}

// textMap is a CEL map over a part of the exchange. Asking for a key looks it
// up there; a real map is only made for what needs one, such as going over it.
type textMap struct {
	x      *exchange.Exchange
	source func(x *exchange.Exchange, key string) (string, bool)
	all    func(x *exchange.Exchange) map[string]string
	made   traits.Mapper
}

var _ traits.Mapper = (*textMap)(nil)

func (m *textMap) full() traits.Mapper {
	if m.made == nil {
		m.made = types.NewStringStringMap(types.DefaultTypeAdapter, m.all(m.x))
	}
	return m.made
}

// Find looks a key up.
func (m *textMap) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	v, ok := m.source(m.x, string(name))
	if !ok {
		return nil, false
	}
	return types.String(v), true
}

// Contains reports whether there is a key.
func (m *textMap) Contains(key ref.Val) ref.Val {
	_, ok := m.Find(key)
	return types.Bool(ok)
}

// Get looks a key up that must be there.
func (m *textMap) Get(key ref.Val) ref.Val {
	if v, ok := m.Find(key); ok {
		return v
	}
	return types.NewErr("no such key: %v", key)
}

// ConvertToNative, and what follows, is the real map's.
func (m *textMap) ConvertToNative(t reflect.Type) (any, error) { return m.full().ConvertToNative(t) }

// ConvertToType converts to another CEL type.
func (m *textMap) ConvertToType(t ref.Type) ref.Val { return m.full().ConvertToType(t) }

// Equal compares with another map.
func (m *textMap) Equal(other ref.Val) ref.Val { return m.full().Equal(other) }

// Type is the type of maps.
func (m *textMap) Type() ref.Type { return types.MapType }

// Value is a Go map.
func (m *textMap) Value() any { return m.full().Value() }

// Iterator goes over the keys.
func (m *textMap) Iterator() traits.Iterator { return m.full().Iterator() }

// Size is the number of keys.
func (m *textMap) Size() ref.Val { return m.full().Size() }

// visible reports whether a condition may see field i of the request: odd
// spellings that the front doesn't believe are hidden.
func visible(h *exchange.Head, i int) bool { return h.ID(i) != exchange.Other || !h.Dropped(i) }

// separator joins fields of one name (RFC 9110, 5.3; RFC 9113, 8.2.3).
func separator(id exchange.ID) string {
	if id == exchange.Cookie {
		return "; "
	}
	return ", "
}

func findHeader(x *exchange.Exchange, key string) (string, bool) {
	id := exchange.Lookup(key)
	if id != exchange.Other && !x.Request.Has(id) {
		return "", false
	}
	value, found := "", false
	for i := range x.Request.Len() {
		if x.Request.ID(i) != id || !visible(&x.Request, i) {
			continue
		}
		name, v := x.Request.Field(i)
		if id == exchange.Other && !exchange.EqualFold(name, key) {
			continue
		}
		if found {
			value += separator(id) + v
		} else {
			value, found = v, true
		}
	}
	return value, found
}

func allHeaders(x *exchange.Exchange) map[string]string {
	all := make(map[string]string, x.Request.Len())
	for i := range x.Request.Len() {
		if !visible(&x.Request, i) {
			continue
		}
		name, v := x.Request.Field(i)
		name = strings.ToLower(name)
		if before, ok := all[name]; ok {
			v = before + separator(x.Request.ID(i)) + v
		}
		all[name] = v
	}
	return all
}

// nextParam cuts the first parameter off a query.
func nextParam(query string) (name, value, rest string) {
	pair, rest, _ := strings.Cut(query, "&")
	name, value, _ = strings.Cut(pair, "=")
	return unescape(name), unescape(value), rest
}

func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	return string(exchange.AppendUnescaped(nil, s))
}

func findQuery(x *exchange.Exchange, key string) (string, bool) {
	for query := x.Target.Query; query != ""; {
		var name, value string
		empty := query[0] == '&'
		name, value, query = nextParam(query)
		if name == key && !empty {
			return value, true
		}
	}
	return "", false
}

func allQuery(x *exchange.Exchange) map[string]string {
	all := map[string]string{}
	for query := x.Target.Query; query != ""; {
		var name, value string
		empty := query[0] == '&'
		name, value, query = nextParam(query)
		if _, ok := all[name]; !ok && !empty {
			all[name] = value
		}
	}
	return all
}
