package exchange

import "testing"

func TestSyntax(t *testing.T) {
	for s, want := range map[string][2]bool{
		"accept": {true, false}, "x-1!#~": {true, false}, "x_y": {true, true}, "x.y": {true, true},
		"": {}, "Accept": {}, "a b": {}, ":path": {}, "a:": {}, "é": {}, "a\x00": {},
	} {
		if ok, odd := LowerName(s); ok != want[0] || odd != want[1] {
			t.Errorf("LowerName(%q) = %v, %v; want %v", s, ok, odd, want)
		}
	}
	for s, want := range map[string]bool{"GET": true, "m-search": true, "": false, "G T": false, "GET\r": false, "(": false} {
		if got := IsToken(s); got != want {
			t.Errorf("IsToken(%q) = %v, want %v", s, got, want)
		}
	}
	for s, want := range map[string]bool{
		"": true, "a\tb": true, "\xff": true, " a": false, "a\t": false, "a\nb": false, "a\rb": false, "\x00": false, "\x7f": false,
	} {
		if got := ValidValue(s); got != want {
			t.Errorf("ValidValue(%q) = %v, want %v", s, got, want)
		}
	}
	for s, want := range map[string]int64{
		"0": 0, "007": 7, "999999999999999999": 999999999999999999,
		"": -1, "1000000000000000000": -1, "+1": -1, "-1": -1, "1 ": -1, "1,1": -1, "0x1": -1,
	} {
		n, ok := ParseLength(s)
		if !ok {
			n = -1
		}
		if n != want {
			t.Errorf("ParseLength(%q) = %d, want %d", s, n, want)
		}
	}
}
