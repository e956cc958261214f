package exchange

import (
	"strings"
	"testing"
)

// TestEditsOvertake applies edits of known and unknown names in turn: the later one of
// Set and Remove wins over what was set and added before.
func TestEditsOvertake(t *testing.T) {
	tests := []struct {
		name string
		do   func(e *Edits)
		want string
	}{
		{"set twice", func(e *Edits) { e.Set("Via", "1"); e.Set("via", "2") }, "via=2"},
		{"add stays", func(e *Edits) { e.Add("Via", "1"); e.Add("Via", "2") }, "Via=1 Via=2"},
		{"set overtakes added", func(e *Edits) { e.Add("Via", "1"); e.Set("Via", "2") }, "Via=2"},
		{"remove overtakes set", func(e *Edits) { e.Set("Via", "1"); e.Remove("Via") }, ""},
		{"unknown names", func(e *Edits) { e.Set("X-A", "1"); e.Set("X-B", "2"); e.Set("x-a", "3") }, "X-B=2 x-a=3"},
		{"added, unknown", func(e *Edits) { e.Add("X-A", "1"); e.Remove("X-B"); e.Remove("X-A") }, ""},
		{"after Reset", func(e *Edits) { e.Set("Via", "1"); e.Reset(); e.Add("Via", "2") }, "Via=2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var e Edits
			tt.do(&e)
			var got []string
			for i := range e.Len() {
				if name, value, ok := e.Field(i); ok {
					got = append(got, name+"="+value)
				}
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("fields = %q, want %q", s, tt.want)
			}
		})
	}
}

// TestLine sees which fields can be copied as they stand.
func TestLine(t *testing.T) {
	const head = "A: b\r\nC:d\r\nE:  f\r\nG: h \r\nI: \r\n"
	tests := []struct {
		name, nameEnd, value, valueEnd, lineEnd int
		want                                    string
	}{
		{0, 1, 3, 4, 4, "A: b\r\n"},
		{6, 7, 8, 9, 9, ""},
		{11, 12, 15, 16, 16, ""},
		{18, 19, 21, 22, 23, ""},
		{25, 26, 28, 28, 28, "I: \r\n"},
	}
	var h Head
	h.Reset([]byte(head))
	for i, tt := range tests {
		h.MarkLine(tt.name, tt.nameEnd, tt.value, tt.valueEnd, tt.lineEnd)
		from, to, ok := h.Line(i)
		if ok != (tt.want != "") || ok && head[from:to] != tt.want {
			t.Errorf("Line(%d) = %d, %d, %v; want %q", i, from, to, ok, tt.want)
		}
	}
}
