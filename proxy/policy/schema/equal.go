package schema

import (
	"cmp"
	"hash/maphash"
	"math/bits"
	"slices"
)

// same reports whether node i of v is equal to node j of o, as JSON Schema has
// it: numbers by value, objects whatever the order of their members. What came
// as text is equal to whatever it may stand for. It spends a step for each node.
func (c *Checker) same(v *Value, i uint32, o *Value, j uint32) bool {
	c.steps--
	a, b := &v.nodes[i], &o.nodes[j]
	if a.text {
		return sameText(v.str(i), o, j)
	}
	if a.kind != b.kind {
		return false
	}
	switch a.kind {
	case Number:
		x, _ := parseDecimal(v.str(i))
		y, _ := parseDecimal(o.str(j))
		return x.compare(&y) == 0
	case String:
		return v.str(i) == o.str(j)
	case Array:
		if a.from != b.from {
			return false
		}
		for i, j = i+1, j+1; i < a.next; i, j = v.nodes[i].next, o.nodes[j].next {
			if c.steps < 0 || !c.same(v, i, o, j) {
				return false
			}
		}
		return true
	case Object:
		return a.from == b.from && c.sameMembers(v, i, o, j)
	default:
		return true
	}
}

func (c *Checker) sameMembers(v *Value, i uint32, o *Value, j uint32) bool {
	end := v.nodes[i].next
	for m := i + 1; m < end; m = v.nodes[m+1].next {
		k, ok := c.member(o, j, v.str(m))
		if c.steps < 0 || !ok || !c.same(v, m+1, o, k) {
			return false
		}
	}
	return true
}

// member is the value of a name in object i.
func (c *Checker) member(v *Value, i uint32, name string) (at uint32, ok bool) {
	end := v.nodes[i].next
	for m := i + 1; m < end; m = v.nodes[m+1].next {
		c.steps--
		if v.str(m) == name {
			return m + 1, true
		}
	}
	return 0, false
}

// sameText compares a text with what it may stand for.
func sameText(s string, o *Value, j uint32) bool {
	switch o.nodes[j].kind {
	case String:
		return s == o.str(j)
	case Number:
		if !isNumber(s) {
			return false
		}
		x, _ := parseDecimal(s)
		y, _ := parseDecimal(o.str(j))
		return x.compare(&y) == 0
	case True:
		return s == "true"
	case False:
		return s == "false"
	case Null:
		return s == ""
	default:
		return false
	}
}

// hashed is an item of an array with its hash.
type hashed struct {
	hash uint64
	at   uint32
}

// distinct reports whether the items of array i differ. Many are compared by a
// hash that nobody outside can foretell, and in full only where that is equal.
func (c *Checker) distinct(v *Value, i uint32) bool {
	n := &v.nodes[i]
	list := c.hashes[:0]
	for m := i + 1; m < n.next; m = v.nodes[m].next {
		list = append(list, hashed{c.hash(v, m), m})
	}
	c.hashes = list
	c.steps -= len(list) * bits.Len(uint(len(list))) / 4
	slices.SortFunc(list, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
	for k := 1; k < len(list); k++ {
		for j := k - 1; j >= 0 && list[j].hash == list[k].hash; j-- {
			if c.steps < 0 || c.same(v, list[j].at, v, list[k].at) {
				return false
			}
		}
	}
	return true
}

// hash is the same for equal values.
func (c *Checker) hash(v *Value, i uint32) uint64 {
	c.steps--
	n := &v.nodes[i]
	h := uint64(n.kind) + 1
	switch n.kind {
	case String:
		h = maphash.String(c.seed, v.str(i))
	case Number:
		d, _ := parseDecimal(v.str(i))
		h = c.hashNumber(&d)
	case Array:
		for m := i + 1; m < n.next; m = v.nodes[m].next {
			h = scramble(h*31 + c.hash(v, m))
		}
	case Object: // a sum: the order of members doesn't matter
		for m := i + 1; m < n.next; m = v.nodes[m+1].next {
			h += scramble(maphash.String(c.seed, v.str(m)) ^ scramble(c.hash(v, m+1)))
		}
		h = scramble(h)
	}
	return h
}

func (c *Checker) hashNumber(d *decimalNumber) uint64 {
	if d.len() == 0 {
		return 7
	}
	var h maphash.Hash
	h.SetSeed(c.seed)
	for i := range d.len() {
		h.WriteByte(d.digit(i)) // never fails (hash/maphash)
	}
	sum := h.Sum64() ^ scramble(uint64(d.point))
	if d.negative {
		sum = ^sum
	}
	return sum
}

func scramble(h uint64) uint64 {
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}
