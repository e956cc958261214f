package schema

import "unsafe"

// Kind is what a value is.
type Kind uint8

// The kinds of values.
const (
	Null Kind = iota
	False
	True
	Number
	String
	Array
	Object
)

// node is a value, or the name of an object's member right before its value. A
// value's parts follow it; next is behind them. Offsets and a flat list take 16
// bytes a value, and nothing for the garbage collector to look at.
type node struct {
	kind Kind
	side bool // the text is in extra
	text bool // it came as text (of a query, a form): it may be a string, a number, true or false
	from uint32
	to   uint32 // of the text; for arrays and objects, from is the number of parts
	next uint32
}

// Value is a JSON value in memory, which Parse fills again and again. The root
// is node 0.
type Value struct {
	source string // what was parsed
	extra  []byte // texts that don't stand in source as they are
	nodes  []node
}

// Reset empties v.
func (v *Value) Reset() {
	v.source, v.extra, v.nodes = "", v.extra[:0], v.nodes[:0]
}

// Size is how much memory v holds on to.
func (v *Value) Size() int { return cap(v.extra) + 16*cap(v.nodes) }

// str is the text of node i.
func (v *Value) str(i uint32) string {
	n := &v.nodes[i]
	if !n.side {
		return v.source[n.from:n.to]
	}
	b := v.extra[n.from:n.to]
	return unsafe.String(unsafe.SliceData(b), len(b))
}

// Text adds a value that came as text, of which nobody has said yet whether it
// is a string, a number or true or false: a schema may take it for any.
func (v *Value) Text(s string) {
	at := len(v.extra)
	v.extra = append(v.extra, s...)
	v.nodes = append(v.nodes, node{kind: String, side: true, text: true, from: uint32(at), to: uint32(len(v.extra)), next: uint32(len(v.nodes) + 1)})
}

// Bytes adds a string that is none but a string.
func (v *Value) Bytes(s string) {
	v.Text(s)
	v.nodes[len(v.nodes)-1].text = false
}

// Begin adds an array or object; what is added before End(i) belongs to it. In
// an object names, by Name, and values take turns.
func (v *Value) Begin(k Kind) (i int) {
	v.nodes = append(v.nodes, node{kind: k})
	return len(v.nodes) - 1
}

// Name adds the name of a member, whose value comes next.
func (v *Value) Name(s string) { v.Bytes(s) }

// End ends array or object i, which has n parts.
func (v *Value) End(i, n int) {
	v.nodes[i].from, v.nodes[i].next = uint32(n), uint32(len(v.nodes))
}

// Graft adds the root of another value.
func (v *Value) Graft(o *Value) {
	base := uint32(len(v.nodes))
	for i := range o.nodes {
		n := o.nodes[i]
		if n.kind == String || n.kind == Number {
			s := o.str(uint32(i))
			n.from, n.side = uint32(len(v.extra)), true
			v.extra = append(v.extra, s...)
			n.to = uint32(len(v.extra))
		}
		n.next += base
		v.nodes = append(v.nodes, n)
	}
}
