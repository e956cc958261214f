package route

import (
	"math"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Matcher is a compiled list of rules.
//
// A host leads to an entry; an entry's paths are found in one map of exact
// paths and one tree of segments for all entries. Each path of an entry is a
// leaf, and leaves are numbered in the order of precedence, so that "the next
// best" is the smallest number above the last one.
type Matcher struct {
	rules      []Rule
	conditions []conditions

	hosts     map[string]uint32 // exact name → entry
	suffixes  map[string]uint32 // ".example.com" → entry
	maxSuffix int               // length of the longest
	any       int64             // entry of the rules without hosts; -1: none
	entries   []entry

	exact  map[pathKey]int32 // → leaf
	edges  map[edgeKey]uint32
	nodes  []node
	first  []uint32 // the rules of leaf i are takers[first[i]:first[i+1]]
	takers []taker
	params [][]param

	// What matching doesn't read stands apart: a large table isn't in the CPU's
	// cache, and each line of it that is touched costs as much as a map's hash.
	paths []string // of each leaf, as it was written; "": every path
	names []name   // of each entry
}

// entry is one host name, one wildcard, or every host.
type entry struct {
	root    uint32 // node of "/"; 0: only exact paths
	any     int32  // leaf of the rules without paths; -1: none
	hasPath bool   // it has exact paths
}

// name is an entry for people.
type name struct {
	host       string // the name, or "*.example.com"; "": every host
	first, end int32  // its leaves
}

type pathKey struct {
	entry uint32
	path  string
}

type edgeKey struct {
	node    uint32
	segment string
}

// node stands for the segments from the root to it. Its literal children are
// in edges.
type node struct {
	param    uint32 // child for any segment; 0: none
	leaf     int32  // a path with parameters ends here; -1: none
	prefix   int32  // a prefix ends here; -1: none
	min, max int32  // bounds of the leaves at and below it
	literals bool   // it has literal children
}

// taker is a rule at a leaf, with as much of its conditions as most rules have.
type taker struct {
	rule   uint32
	params uint32 // place in Matcher.params; 0: none
	bits   uint16 // known methods; 0: see the conditions
	plain  bool   // it has no other conditions
}

// param is where a parameter stands.
type param struct {
	name    string
	segment int
}

// Match finds the rule that takes x, and fills x.Params. It looks at x.Target,
// x.Method and the fields of x.Request only. A path with parameters must be the
// same rule's without them: services differ in what they take for the path, and
// "/open;/../admin" must not get around what guards "/admin".
func (m *Matcher) Match(x *exchange.Exchange) Result {
	if x.Target.Bare == "" {
		return m.find(x)
	}
	path := x.Target.Path
	x.Target.Path = x.Target.Bare
	bare := m.find(x)
	x.Target.Path = path
	r := m.find(x)
	if r.Rule >= 0 && r.Rule != bare.Rule {
		return Result{Rule: -1, Miss: TwoRoutes}
	}
	return r
}

func (m *Matcher) find(x *exchange.Exchange) Result {
	bit := methodBit(x.Method)
	x.Params = x.Params[:0]
	walk := m.walk(x.Target.Host)
	hostSeen, pathSeen := false, false
	for e := walk.next(); e >= 0; e = walk.next() {
		hostSeen = true
		last := int32(-1)
		for l := m.nextLeaf(uint32(e), x.Target.Path, last); l >= 0; l = m.nextLeaf(uint32(e), x.Target.Path, last) {
			pathSeen = true
			for i := m.first[l]; i < m.first[l+1]; i++ {
				if t := &m.takers[i]; m.takes(t, x, bit) {
					if t.params != 0 {
						fillParams(x, m.params[t.params])
					}
					return Result{Rule: int(t.rule)}
				}
			}
			last = l
		}
	}
	switch {
	case !hostSeen:
		return Result{Rule: -1, Miss: NoHost}
	case !pathSeen:
		return Result{Rule: -1, Miss: NoPath}
	}
	if allow := m.allowed(x); allow != "" {
		return Result{Rule: -1, Miss: MethodNotAllowed, Allow: allow}
	}
	return Result{Rule: -1, Miss: NoCondition}
}

// takes reports whether all conditions of the rule at t hold.
func (m *Matcher) takes(t *taker, x *exchange.Exchange, bit uint16) bool {
	if t.plain {
		return t.bits == 0 || t.bits&bit != 0
	}
	c := &m.conditions[t.rule]
	return c.takesMethod(x.Method, bit) && c.hold(x)
}

// allowed returns the methods with which x would have been taken. It is asked
// only when no rule takes x.
func (m *Matcher) allowed(x *exchange.Exchange) string {
	var names [8]string
	others, bits := names[:0], uint16(0)
	bit := methodBit(x.Method)
	walk := m.walk(x.Target.Host)
	for e := walk.next(); e >= 0; e = walk.next() {
		last := int32(-1)
		for l := m.nextLeaf(uint32(e), x.Target.Path, last); l >= 0; l = m.nextLeaf(uint32(e), x.Target.Path, last) {
			for i := m.first[l]; i < m.first[l+1]; i++ {
				c := &m.conditions[m.takers[i].rule]
				if c.takesMethod(x.Method, bit) || c.bits&^bits == 0 && len(c.others) == 0 || !c.hold(x) {
					continue
				}
				bits |= c.bits
				for _, o := range c.others {
					if !slices.Contains(others, o) {
						others = append(others, o)
					}
				}
			}
			last = l
		}
	}
	var buf [128]byte
	list := buf[:0]
	for _, name := range others {
		list = appendMethod(list, name)
	}
	for i, name := range knownMethods {
		if bits&(1<<i) != 0 {
			list = appendMethod(list, name)
		}
	}
	return x.Keep(list)
}

func appendMethod(list []byte, m string) []byte {
	if len(list) > 0 {
		list = append(list, ", "...)
	}
	return append(list, m...)
}

// fillParams cuts the parameters' segments out of the path.
func fillParams(x *exchange.Exchange, params []param) {
	rest, at := x.Target.Path, -1
	for i := range params {
		var segment string
		for ; at < params[i].segment; at++ {
			rest = rest[1:] // the slash before the segment
			end := strings.IndexByte(rest, '/')
			if end < 0 {
				end = len(rest)
			}
			segment, rest = rest[:end], rest[end:]
		}
		x.Params = append(x.Params, exchange.Param{Name: params[i].name, Value: segment})
	}
}

// hostWalk goes over the entries for one host, the most specific first.
type hostWalk struct {
	m    *Matcher
	host string
	at   int // where the next suffix may begin
	step uint8
}

func (m *Matcher) walk(host string) hostWalk { return hostWalk{m: m, host: host} }

// next returns the next entry, -1 after the last.
func (w *hostWalk) next() int64 {
	switch w.step {
	case 0:
		w.step = 1
		if e, ok := w.m.hosts[w.host]; ok {
			return int64(e)
		}
		fallthrough
	case 1:
		if len(w.m.suffixes) > 0 {
			w.at = max(w.at, len(w.host)-w.m.maxSuffix)
			for w.at < len(w.host) {
				dot := strings.IndexByte(w.host[w.at:], '.')
				if dot < 0 {
					break
				}
				suffix := w.host[w.at+dot:]
				w.at += dot + 1
				if e, ok := w.m.suffixes[suffix]; ok {
					return int64(e)
				}
			}
		}
		w.step = 2
		return w.m.any
	default:
		return -1
	}
}

// nextLeaf returns the most specific leaf of an entry that takes path and
// comes after the leaf last; -1: none.
func (m *Matcher) nextLeaf(at uint32, path string, last int32) int32 {
	e := &m.entries[at]
	if e.hasPath {
		if l, ok := m.exact[pathKey{at, path}]; ok && l > last {
			return l
		}
	}
	if e.root != 0 && path != "" && path[0] == '/' {
		s := search{m: m, last: last, best: math.MaxInt32}
		s.visit(e.root, path[1:], false)
		if s.best != math.MaxInt32 {
			return s.best
		}
	}
	if e.any > last {
		return e.any
	}
	return -1
}

// search looks in the tree for the smallest leaf above last. It follows both
// the literal and the parameter, and leaves out what can't be better than what
// it has.
type search struct {
	m          *Matcher
	last, best int32
}

// visit looks at a node and below it; rest is the path behind it, without the
// slash. ended: nothing is behind it, not even a slash.
func (s *search) visit(at uint32, rest string, ended bool) {
	n := &s.m.nodes[at]
	if n.max <= s.last || n.min >= s.best {
		return
	}
	if n.prefix > s.last && n.prefix < s.best {
		s.best = n.prefix
	}
	if ended {
		if n.leaf > s.last && n.leaf < s.best {
			s.best = n.leaf
		}
		return
	}
	if !n.literals && n.param == 0 {
		return
	}
	segment, rest, more := strings.Cut(rest, "/")
	if n.literals {
		if child, ok := s.m.edges[edgeKey{at, segment}]; ok {
			s.visit(child, rest, !more)
		}
	}
	if n.param != 0 && segment != "" {
		s.visit(n.param, rest, !more)
	}
}
