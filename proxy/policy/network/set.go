// Package network holds sets of addresses, made of networks, that are asked
// once for each request. It says nothing of what becomes of an address. A Set
// never changes; the package starts no goroutine.
//
// The networks of each family become ranges that don't touch, sorted. The upper
// bits of an address lead to the few ranges that begin with the same ones, and
// a binary search finds the one that may hold it.
package network

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
)

// Set is a set of addresses. The zero Set is empty.
type Set struct {
	v4 ranges[uint32]
	v6 ranges[wide]
	n  int
}

// wide is an IPv6 address.
type wide struct{ hi, lo uint64 }

// ranges are those of one family.
type ranges[T any] struct {
	first, last []T
	index       []uint32 // by the upper bits: how many ranges begin below
	base        uint64   // the first bits of the lowest range
	shift       uint8    // how many of 64 bits the index leaves out
}

// New makes the set of the networks. IPv4 ones in IPv6's notation
// (::ffff:0:0/96) count as IPv4.
func New(list []netip.Prefix) *Set {
	s := &Set{n: len(list)}
	var v4 []pair[uint32]
	var v6 []pair[wide]
	for _, p := range list {
		a, size := p.Masked().Addr(), p.Bits()
		if a.Is4In6() && size >= 96 {
			a, size = a.Unmap(), size-96
		}
		if a.Is4() {
			from := narrow(a)
			v4 = append(v4, pair[uint32]{from, from | uint32(uint64(1)<<(32-size)-1)})
			continue
		}
		from := widen(a)
		to := wide{from.hi | ones(64-size), from.lo | ones(128-size)}
		v6 = append(v6, pair[wide]{from, to})
	}
	s.v4 = build(v4, cmp.Compare[uint32], func(a uint32) uint64 { return uint64(a) << 32 })
	s.v6 = build(v6, compare, func(a wide) uint64 { return a.hi })
	return s
}

// ones is a number whose lower n bits are set; all 64 for more.
func ones(n int) uint64 {
	if n <= 0 {
		return 0
	}
	return ^uint64(0) >> (64 - min(n, 64))
}

func narrow(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func widen(a netip.Addr) wide {
	b := a.As16()
	return wide{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func compare(a, b wide) int {
	if c := cmp.Compare(a.hi, b.hi); c != 0 {
		return c
	}
	return cmp.Compare(a.lo, b.lo)
}

type pair[T any] struct{ first, last T }

// build sorts ranges and joins those that overlap, and makes their index.
func build[T any](list []pair[T], compare func(a, b T) int, upper func(T) uint64) (r ranges[T]) {
	if len(list) == 0 {
		return r
	}
	slices.SortFunc(list, func(a, b pair[T]) int { return compare(a.first, b.first) })
	joined := list[:1]
	for _, p := range list[1:] {
		if end := &joined[len(joined)-1]; compare(p.first, end.last) > 0 {
			joined = append(joined, p)
		} else if compare(p.last, end.last) > 0 {
			end.last = p.last
		}
	}
	r.first, r.last = make([]T, len(joined)), make([]T, len(joined))
	for i, p := range joined {
		r.first[i], r.last[i] = p.first, p.last
	}
	// Two places for each range, spread from the lowest to the highest.
	r.base = upper(r.first[0])
	span := upper(r.first[len(joined)-1]) - r.base
	r.shift = uint8(max(0, bits.Len64(span)-bits.Len(uint(len(joined)))-1))
	r.index = make([]uint32, span>>r.shift+2)
	for i, n := 0, 0; i < len(r.index); i++ {
		for n < len(joined) && (upper(r.first[n])-r.base)>>r.shift < uint64(i) {
			n++
		}
		r.index[i] = uint32(n)
	}
	return r
}

// near returns which ranges may begin at or below an address with these upper
// bits, and nearest to it: the first of them, and the end. Without any it is
// below all.
func (r *ranges[T]) near(upper uint64) (from, end int) {
	if len(r.first) == 0 || upper < r.base {
		return 0, 0
	}
	at := (upper - r.base) >> r.shift
	if at >= uint64(len(r.index)-1) {
		return len(r.first) - 1, len(r.first)
	}
	return max(int(r.index[at])-1, 0), int(r.index[at+1])
}

// Has reports whether the address is in the set. It allocates nothing.
func (s *Set) Has(a netip.Addr) bool {
	a = a.Unmap()
	switch {
	case a.Is4():
		v := narrow(a)
		from, end := s.v4.near(uint64(v) << 32)
		for end-from > 1 {
			if mid := int(uint(from+end) >> 1); s.v4.first[mid] <= v {
				from = mid
			} else {
				end = mid
			}
		}
		return end > from && s.v4.first[from] <= v && v <= s.v4.last[from]
	case a.Is6():
		v := widen(a)
		from, end := s.v6.near(v.hi)
		for end-from > 1 {
			if mid := int(uint(from+end) >> 1); !less(v, s.v6.first[mid]) {
				from = mid
			} else {
				end = mid
			}
		}
		return end > from && !less(v, s.v6.first[from]) && !less(s.v6.last[from], v)
	}
	return false
}

func less(a, b wide) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

// Len is how many networks the set was made of.
func (s *Set) Len() int { return s.n }
