package policytest

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
)

// MMDB makes a MaxMind DB file (its specification, version 2.0) of records, maps
// of strings to strings, uint32 and such maps, by network. Networks must not
// overlap.
func MMDB(networks map[string]any) []byte {
	nodes := [][2]int{{}} // below 0: the record at -n-1; 0: nothing
	var data []byte
	for _, text := range slices.Sorted(maps.Keys(networks)) {
		p := netip.MustParsePrefix(text)
		a, size := p.Addr().As16(), p.Bits()
		if p.Addr().Is4() { // ::/96 in the file
			v4 := p.Addr().As4()
			a, size = [16]byte{}, size+96
			copy(a[12:], v4[:])
		}
		at := 0
		for i := range size {
			bit := int(a[i/8]>>(7-i%8)) & 1
			switch {
			case i == size-1:
				nodes[at][bit] = -len(data) - 1
			case nodes[at][bit] == 0:
				nodes = append(nodes, [2]int{})
				nodes[at][bit] = len(nodes) - 1
				fallthrough
			default:
				at = nodes[at][bit]
			}
		}
		data = appendMMDB(data, networks[text])
	}
	var out []byte
	for _, n := range nodes {
		for _, to := range n {
			switch {
			case to == 0:
				to = len(nodes)
			case to < 0:
				to = len(nodes) + 16 - to - 1
			}
			out = append(out, byte(to>>16), byte(to>>8), byte(to))
		}
	}
	out = append(append(out, make([]byte, 16)...), data...)
	out = append(out, "\xab\xcd\xefMaxMind.com"...)
	return appendMMDB(out, map[string]any{
		"binary_format_major_version": uint16(2), "binary_format_minor_version": uint16(0), "build_epoch": uint64(1_800_000_000),
		"database_type": "Test", "description": map[string]any{}, "ip_version": uint16(6), "languages": []any{}, "node_count": uint32(len(nodes)), "record_size": uint16(24),
	})
}

func appendMMDB(b []byte, v any) []byte {
	switch v := v.(type) {
	case string: // shorter than 29 bytes
		return append(append(b, 2<<5|byte(len(v))), v...)
	case uint16:
		return binary.BigEndian.AppendUint16(append(b, 5<<5|2), v)
	case uint32:
		return binary.BigEndian.AppendUint32(append(b, 6<<5|4), v)
	case uint64:
		return binary.BigEndian.AppendUint64(append(b, 8, 9-7), v)
	case []any:
		b = append(b, byte(len(v)), 11-7)
		for _, e := range v {
			b = appendMMDB(b, e)
		}
		return b
	case map[string]any:
		b = append(b, 7<<5|byte(len(v)))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			b = appendMMDB(appendMMDB(b, k), v[k])
		}
		return b
	}
	panic("policytest: not a value of an MMDB")
}
