package h3

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"github.com/quic-go/qpack"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestStaticTable compares the table, and what is found in it, with the
// library's.
func TestStaticTable(t *testing.T) {
	for i := range static {
		want, err := qpack.NewDecoder().Decode(appendInt([]byte{0, 0}, 0xc0, 6, uint64(i)))()
		if err != nil || want.Name != static[i].name || want.Value != static[i].value {
			t.Errorf("static[%d] = %v, want %v, %v", i, static[i], want, err)
		}
	}
	for id, i := range staticName {
		if i > 0 && static[i-1].name != exchange.ID(id).Name() {
			t.Errorf("%s has the index of %s", exchange.ID(id).Name(), static[i-1].name)
		}
	}
	for status := 100; status < 1000; status++ {
		b := appendStatus(appendPrefix(nil), status)
		f, err := qpack.NewDecoder().Decode(b)()
		if err != nil || f.Name != ":status" || f.Value != string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)}) {
			t.Errorf("status %d reads as %v, %v", status, f, err)
		}
	}
}

// TestFieldsRoundTrip: the library reads what we write, and we what it writes.
func TestFieldsRoundTrip(t *testing.T) {
	long := string(bytes.Repeat([]byte("0123456789"), 100))
	fields := []qpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":path", Value: "/" + long}, {Name: "accept", Value: "*/*"},
		{Name: "cookie", Value: "a=b"}, {Name: "authorization", Value: "Basic x"}, {Name: "x-" + long, Value: ""},
		{Name: "user-agent", Value: "t\xff"}, {Name: "content-length", Value: "0"}, {Name: "set-cookie", Value: long},
	}
	var theirs bytes.Buffer
	enc := qpack.NewEncoder(&theirs)
	ours := appendPrefix(nil)
	for _, f := range fields {
		if err := enc.WriteField(f); err != nil {
			t.Fatal(err)
		}
		ours = appendField(ours, exchange.Lookup(f.Name), f.Name, f.Value)
	}
	var s section
	if err := s.begin(theirs.Bytes()); err != nil {
		t.Fatal(err)
	}
	next := qpack.NewDecoder().Decode(ours)
	for _, want := range fields {
		name, value, err := s.next()
		if err != nil || name != want.Name || value != want.Value {
			t.Errorf("from the library: %q: %q, %v, want %v", name, value, err, want)
		}
		if got, err := next(); err != nil || got != want {
			t.Errorf("from us: %v, %v, want %v", got, err, want)
		}
	}
	if s.more() {
		t.Errorf("%x is left", s.rest)
	}
	if _, err := next(); !errors.Is(err, io.EOF) {
		t.Errorf("more is left: %v", err)
	}
	if got, err := qpack.NewDecoder().Decode(appendField(appendPrefix(nil), exchange.Other, "X-Mixed", "v"))(); err != nil || got.Name != "x-mixed" {
		t.Errorf("an upper-case name becomes %v, %v", got, err)
	}
}

func TestUrgency(t *testing.T) {
	for _, tt := range []struct {
		field       string
		u           int8
		incremental bool
	}{
		{"", 3, false}, {"u=0", 0, false}, {"i", 3, true}, {"u=7, i", 7, true}, {"i=?1,u=1", 1, true}, {"i, i=?0", 3, false},
		{"u=8", 3, false}, {"u=-1", 3, false}, {"u=10", 3, false}, {"u", 3, false}, {"x=1, u=2", 2, false},
	} {
		if u, i := urgency(tt.field); u != tt.u || i != tt.incremental {
			t.Errorf("urgency(%q) = %d, %v, want %d, %v", tt.field, u, i, tt.u, tt.incremental)
		}
	}
}

func TestVarint(t *testing.T) {
	for _, v := range []uint64{0, 1, 63, 64, 16383, 16384, 1<<30 - 1, 1 << 30, 1<<62 - 1} {
		b := appendVarint(nil, v)
		if got, n := varint(b); got != v || n != len(b) {
			t.Errorf("varint(%x) = %d, %d, want %d, %d", b, got, n, v, len(b))
		}
		for i := range b {
			if _, n := varint(b[:i]); n != 0 {
				t.Errorf("varint(%x) has %d bytes", b[:i], n)
			}
		}
	}
}

// FuzzHead: our decoder takes what the library takes, and reads the same; what
// a head becomes has no field that could be taken for another one.
func FuzzHead(f *testing.F) {
	f.Add([]byte{0, 0, 0xc0 | 17})
	f.Add(lines(":method= GET", ":scheme= https", ":authority= a", ":path= /", "cookie= a", "cookie= b", "x_y= z"))
	f.Add([]byte{0, 0, 0x51, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0x2f, 0x00, 0x83, 0x1c, 0x64, 0x9f, 0x00})
	f.Fuzz(func(t *testing.T, p []byte) {
		var s section
		next := qpack.NewDecoder().Decode(p)
		err := s.begin(p)
		for err == nil && s.more() {
			var name, value string
			if name, value, err = s.next(); err != nil {
				break
			}
			want, theirs := next()
			if theirs != nil {
				// The library wants a base of 0, and takes fewer, or more, bytes of an
				// integer than we do.
				return
			}
			if want.Name != name || want.Value != value {
				t.Fatalf("%x: %q: %q, want %v", p, name, value, want)
			}
		}
		var h exchange.Head
		b := block{maxSize: 1 << 10, maxFields: 10, maxURI: 100}
		if (b.read(p, &h, false) != nil) != (err != nil) && !b.tooLarge {
			t.Fatalf("%x: the section is read with %v, the block isn't", p, err)
		}
		if err != nil || b.tooLarge || b.flaw() != "" {
			return
		}
		for i := range h.Len() {
			name, value := h.Field(i)
			if ok, odd := exchange.LowerName(name); !ok || odd || !exchange.ValidValue(value) && h.ID(i) != exchange.Cookie {
				t.Fatalf("%x: field %q: %q", p, name, value)
			}
			switch h.ID(i) {
			case exchange.Connection, exchange.TransferEncoding, exchange.UpgradeField, exchange.EarlyData:
				t.Fatalf("%x: field %q", p, name)
			}
		}
	})
}

// FuzzStream: whatever a request stream holds, it is read to an end.
func FuzzStream(f *testing.F) {
	f.Add(get())
	f.Add(join(post("content-length= 3"), frame(0, 'a'), frame(0x21), frame(0, 'b', 'c'), headers("x-t= 1")))
	front := &Front{cfg: FrontConfig{MaxHeaders: 1 << 10, MaxFields: 10, MaxURI: 100}, maxSection: 4 << 10}
	f.Fuzz(func(t *testing.T, p []byte) {
		st := &stream{f: front, c: &conn{f: front}}
		st.c.whole.Store(true)
		st.c.leaving.Store(true) // there is no connection to end
		st.c.blamed.Store(true)
		st.in.reset(bytes.NewReader(p))
		st.body.init(st)
		section, err := st.headers()
		if err != nil || section == nil {
			return
		}
		st.block.maxSize, st.block.maxFields, st.block.maxURI = 1<<10, 10, 100
		if st.block.read(section, &st.x.Request, false) != nil {
			return
		}
		if st.fill(); st.x.Fault != nil || st.x.RequestBody == nil {
			return
		}
		want := st.x.RequestLength
		got, _ := st.body.Next()
		n := int64(len(got))
		buf := make([]byte, 7)
		for st.body.err == nil {
			m, err := st.body.read(buf)
			n += int64(m)
			if err != nil {
				st.body.err = err
			}
		}
		if errors.Is(st.body.err, io.EOF) && want >= 0 && n != want {
			t.Fatalf("%x: %d bytes of content, want %d", p, n, want)
		}
	})
}

// TestNoAllocations: what is ours of a request costs no memory, once the
// stream has been used before.
func TestNoAllocations(t *testing.T) {
	front := NewFront(FrontConfig{Log: logrus.New(), TLS: &tls.Config{}}) //nolint:gosec // no handshake
	st := &stream{f: front, c: &conn{f: front}}
	st.c.whole.Store(true)
	r := bytes.NewReader(nil)
	send := get("user-agent= t", "accept= */*", "cookie= a=b", "cookie= c=d", "x-other= v")
	body := []byte("small")
	n := testing.AllocsPerRun(100, func() {
		x := &st.x
		x.Request.Reset(x.Request.Buffer()[:0])
		r.Reset(send)
		st.in.reset(r)
		st.body.init(st)
		p, err := st.headers()
		if err != nil {
			t.Fatal(err)
		}
		st.block.maxSize, st.block.maxFields, st.block.maxURI = 1<<10, 10, 100
		if err := st.block.read(p, &x.Request, false); err != nil {
			t.Fatal(err)
		}
		if st.fill(); x.Fault != nil {
			t.Fatal(x.Fault)
		}
		x.Status, x.ResponseLength = 200, int64(len(body))
		st.encode(x)
		st.out = append(appendVarint(append(st.out, frameData), uint64(len(body))), body...)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
