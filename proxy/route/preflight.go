package route

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// Preflight finds the rule for a preflight (Fetch, 4.8): that of the request
// that a page asks leave for, which has another method and may have fields that
// the preflight doesn't carry. Where such a field decides which rule will take
// that request, all that may have to agree: the first that allows doesn't find
// it allowed is returned, and otherwise the first of all. It returns -1 when no
// rule may take that request.
func (m *Matcher) Preflight(x *exchange.Exchange, method string, allows func(rule int) bool) int {
	own := x.Method
	x.Method = method // what when asks for
	defer func() { x.Method = own }()
	bit := methodBit(method)
	first := -1
	walk := m.walk(x.Target.Host)
	for e := walk.next(); e >= 0; e = walk.next() {
		last := int32(-1)
		for l := m.nextLeaf(uint32(e), x.Target.Path, last); l >= 0; l = m.nextLeaf(uint32(e), x.Target.Path, last) {
			for i := m.first[l]; i < m.first[l+1]; i++ {
				t := &m.takers[i]
				c := &m.conditions[t.rule]
				if !c.takesMethod(method, bit) {
					continue
				}
				may, sure := c.foresee(x)
				if !may {
					continue
				}
				if first < 0 {
					first = int(t.rule)
				}
				if !allows(int(t.rule)) {
					return int(t.rule)
				}
				if sure {
					return first
				}
			}
			last = l
		}
	}
	return first
}

// foresee says of the conditions beside the method whether they may hold for
// the request that the preflight x announces, and whether they surely do.
func (c *conditions) foresee(x *exchange.Exchange) (may, sure bool) {
	sure = true
	for i := range c.headers {
		h := &c.headers[i]
		if unforeseen(x, h.name) {
			sure = false
		} else if !h.inHead(&x.Request) {
			return false, false
		}
	}
	for i := range c.query {
		if !c.query[i].inQuery(x.Target.Query) {
			return false, false
		}
	}
	if c.when == nil {
		return true, sure
	}
	if r, ok := c.when.(interface{ ReadsHeaders() bool }); ok && r.ReadsHeaders() {
		return true, false
	}
	return c.when.Eval(x), sure
}

// unforeseen reports whether the request may have another value of a field than
// its preflight: one that the page names, one that it needn't name (Fetch,
// 2.2.2, CORS-safelisted request-header), or one that only the browser adds.
func unforeseen(x *exchange.Exchange, name string) bool {
	switch exchange.Lookup(name) {
	case exchange.Accept, exchange.AcceptLanguage, exchange.ContentType, exchange.ContentLength, exchange.Range, exchange.Cookie, exchange.Authorization:
		return true
	}
	if exchange.EqualFold(name, "Content-Language") {
		return true
	}
	for i := range x.Request.Len() {
		field, list := x.Request.Field(i)
		if !exchange.EqualFold(field, "Access-Control-Request-Headers") {
			continue
		}
		found := false
		exchange.EachToken(list, func(t string) bool {
			found = exchange.EqualFold(t, name)
			return !found
		})
		if found {
			return true
		}
	}
	return false
}
