package exchange

import "encoding/binary"

// AppendPacked appends h, without dropped fields, in a form of few bytes more than
// its text, for Unpack. It is for the memory of this process: ids are in it.
func (h *Head) AppendPacked(dst []byte) []byte {
	n := 0
	for i := range h.fields {
		if !h.fields[i].dropped {
			n++
		}
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	for i := range h.fields {
		if f := &h.fields[i]; !f.dropped {
			dst = append(dst, byte(f.id))
			dst = binary.AppendUvarint(dst, uint64(f.nameEnd-f.name))
			dst = binary.AppendUvarint(dst, uint64(f.valueEnd-f.value))
		}
	}
	for i := range h.fields {
		if f := &h.fields[i]; !f.dropped {
			dst = append(append(dst, h.buf[f.name:f.nameEnd]...), h.buf[f.value:f.valueEnd]...)
		}
	}
	return dst
}

// Unpack makes h show the fields that AppendPacked put into b, which nobody
// changes any more, without copying their bytes.
func (h *Head) Unpack(b []byte) {
	h.Reset(nil)
	n, at := binary.Uvarint(b)
	table := b[at:]
	for range n { // behind the table is the text
		_, a := binary.Uvarint(b[at+1:])
		_, c := binary.Uvarint(b[at+1+a:])
		at += 1 + a + c
	}
	h.buf = b[at:len(b):len(b)]
	from := uint32(0)
	for range n {
		id := ID(table[0])
		name, a := small(table[1:])
		value, c := small(table[1+a:])
		table = table[1+a+c:]
		h.add(field{name: from, nameEnd: from + name, value: from + name, valueEnd: from + name + value, id: id})
		from += name + value
	}
}

// small reads a number, most often of one byte.
func small(b []byte) (v uint32, n int) {
	if b[0] < 0x80 {
		return uint32(b[0]), 1
	}
	u, n := binary.Uvarint(b)
	return uint32(u), n
}

// PackedGet is the value of the first field of that id in what AppendPacked made.
func PackedGet(b []byte, id ID) string {
	n, at := binary.Uvarint(b)
	table, from, to, found := at, uint32(0), uint32(0), false
	for range n {
		name, a := small(b[table+1:])
		value, c := small(b[table+1+a:])
		if ID(b[table]) == id && !found {
			from, to, found = to+name, to+name+value, true
			table += 1 + a + c
			// The text begins behind the table: count the rest.
			continue
		}
		if !found {
			to += name + value
		}
		table += 1 + a + c
	}
	if !found {
		return ""
	}
	return view(b[table+int(from) : table+int(to)])
}
