package waf

import (
	"strings"
	"testing"
)

func TestHarmless(t *testing.T) {
	for s, want := range map[string]bool{
		"": true, "7": true, "-1.5": true, "+3": true, "2026-11-24T22:00:00.123Z": true, "12:00": true, "550e8400-e29b-41d4-a716-446655440000": true, "550E8400-E29B-41D4-A716-446655440000": true,
		"a": false, "id": false, "1--": false, "169.254.169.254": false, "::1": false, "1 or": false, "1;": false, "0x41": false, "550e8400-e29b-41d4-a716-44665544000g": false,
		"12345678901234567890123456789012345678901": false, "1'": false, "../": false,
	} {
		if got := harmless(s); got != want {
			t.Errorf("harmless(%q) = %v", s, got)
		}
	}
}

func TestFlatten(t *testing.T) {
	for _, tt := range []struct{ doc, want, rest string }{
		{`{"a":{"b":["x","y","x"]},"c":"z"}`, "json.a.b=x json.a.b=y json.c=z", ""},
		{`[{"a":1},{"a":2},{"a":"q"}]`, "json.a= json.a=q", ""},
		{`"x y"`, "json=x y", ""},
		{`{"a":"1","a":"b c","A":true}`, "json.a= json.a=b c json.A=", ""},
		{`{"":"x"}`, "json.=x", ""},
		{`{"a":[[["x"]],{"b":"y"}],"c":"z"}`, "json.a=x json.a.b=y json.c=z", ""},
		{` {} `, "", ""},
		{``, "", "nothing"},
		{`{"a":"x"} {"b":"y"}`, "json.a=x json.b=y", `{"a":"x"} {"b":"y"}`},
		{`{"a":"x","b":"y`, "json.a=x", `"y`},
		{"{\"a\":\"\xff\"}", "json.a=\ufffd", "{\"a\":\"\xff\"}"},
		{`{"a":nope}`, "", `nope}`},
	} {
		var got []string
		rest := flatten([]byte(tt.doc), func(name, value string) bool {
			got = append(got, name+"="+value)
			return true
		})
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %q, want %q", tt.doc, s, tt.want)
		}
		if tt.rest == "" && rest != nil || tt.rest != "" && (rest == nil || tt.rest != "nothing" && !strings.HasSuffix(string(rest), tt.rest)) {
			t.Errorf("%s: left %q, want %q", tt.doc, rest, tt.rest)
		}
	}
}
