package postgres

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// Types of PostgreSQL, by their OIDs.
const (
	typeBytea = 17
	typeInt8  = 20
	typeInt2  = 21
	typeText  = 25
)

// number is a bigint, in binary.
func number(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

func small(n int64) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

func boolean(b bool) []byte {
	if b {
		return []byte{1}
	}
	return []byte{0}
}

// array is an array of one dimension, in binary.
func array(element uint32, n int, value func(i int) []byte) []byte {
	b := make([]byte, 0, 20+n*12)
	for _, v := range []uint32{1, 0, element, uint32(n), 1} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	for i := range n {
		v := value(i)
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(v))), v...)
	}
	return b
}

// keys are the first columns of rows, as arrays.
func keys(rows []usage.Row) [][]byte {
	text := func(of func(*usage.Row) string) []byte {
		return array(typeText, len(rows), func(i int) []byte { return []byte(of(&rows[i])) })
	}
	return [][]byte{
		array(typeInt8, len(rows), func(i int) []byte { return number(rows[i].Start) }),
		text(func(r *usage.Row) string { return r.Consumer }),
		text(func(r *usage.Row) string { return r.Route }),
		text(func(r *usage.Row) string { return r.Service }),
		array(typeInt2, len(rows), func(i int) []byte { return small(int64(rows[i].Class)) }),
	}
}

// arrays are all columns of rows.
func arrays(rows []usage.Row) [][]byte {
	out := keys(rows)
	for c := range counts(&usage.Row{}) {
		out = append(out, array(typeInt8, len(rows), func(i int) []byte { return number(*counts(&rows[i])[c]) }))
	}
	return append(out, array(typeBytea, len(rows), func(i int) []byte { return rows[i].Latency.Append(nil) }))
}

// clean leaves out what PostgreSQL's text can't hold.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

var errColumns = errors.New("the database answered with other columns than it was asked for")

// scan reads a row from its columns, in binary. Its histogram keeps its memory.
func scan(r *usage.Row, values [][]byte) error {
	if len(values) != 13 || len(values[4]) != 2 {
		return errColumns
	}
	h := r.Latency
	h.Reset()
	*r = usage.Row{Key: usage.Key{
		Consumer: string(values[1]), Route: string(values[2]), Service: string(values[3]), Class: uint8(binary.BigEndian.Uint16(values[4])),
	}}
	r.Latency = h
	for i, to := range append([]*int64{&r.Start}, counts(r)...) {
		v := values[0]
		if i > 0 {
			v = values[4+i]
		}
		if len(v) != 8 {
			return errColumns
		}
		*to = int64(binary.BigEndian.Uint64(v))
	}
	return r.Latency.Decode(values[12])
}
