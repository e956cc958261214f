package exchange

import (
	"strings"
	"testing"
)

func TestPack(t *testing.T) {
	var h, got Head
	for _, f := range [][2]string{{"Date", "now"}, {"X-A", strings.Repeat("a", 300)}, {"ETag", `"1"`}, {"Set-Cookie", ""}, {"X-Gone", "1"}, {"ETag", `"2"`}, {strings.Repeat("N", 200), "v"}} {
		h.Append(f[0], f[1])
	}
	h.Drop(4)
	b := h.AppendPacked([]byte("before"))[len("before"):]
	got.Append("Old", "1")
	got.Unpack(b)
	if got.Len() != h.Len()-1 || got.Has(CacheControl) || got.Count(ETag) != 2 {
		t.Fatalf("%d fields", got.Len())
	}
	at := 0
	for i := range h.Len() {
		if h.Dropped(i) {
			continue
		}
		n1, v1 := h.Field(i)
		n2, v2 := got.Field(at)
		if n1 != n2 || v1 != v2 || h.ID(i) != got.ID(at) {
			t.Errorf("field %d: %q %q, want %q %q", i, n2, v2, n1, v1)
		}
		at++
	}
	for id, want := range map[ID]string{Date: "now", ETag: `"1"`, LastModified: "", SetCookie: ""} {
		if got := PackedGet(b, id); got != want {
			t.Errorf("PackedGet(%s) = %q, want %q", id.Name(), got, want)
		}
	}
	got.Append("X-More", "1")
	if (&Head{}).AppendPacked(nil)[0] != 0 || PackedGet([]byte{0}, ETag) != "" {
		t.Error("an empty head")
	}
}
