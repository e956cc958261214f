package tracing

import (
	"encoding/hex"
	"regexp"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	traceID  = "0af7651916cd43dd8448eb211c80319c"
	parentID = "b7ad6b7169203331"
)

func TestParseParent(t *testing.T) {
	for in, want := range map[string]string{
		"00-" + traceID + "-" + parentID + "-01":       "01",
		"00-" + traceID + "-" + parentID + "-00":       "00",
		"00-" + traceID + "-" + parentID + "-ff":       "03", // what isn't known doesn't go on
		"01-" + traceID + "-" + parentID + "-03":       "03",
		"cc-" + traceID + "-" + parentID + "-01-later": "01",
		"": "", "00": "",
		"00-" + traceID + "-" + parentID + "-01-later":                   "",
		"00-" + traceID + "-" + parentID + "-01 ":                        "",
		"cc-" + traceID + "-" + parentID + "-01later":                    "",
		"ff-" + traceID + "-" + parentID + "-01":                         "",
		"0g-" + traceID + "-" + parentID + "-01":                         "",
		"00-" + strings.ToUpper(traceID) + "-" + parentID + "-01":        "",
		"00-" + strings.Repeat("0", 32) + "-" + parentID + "-01":         "",
		"00-" + traceID + "-" + strings.Repeat("0", 16) + "-01":          "",
		"00-" + traceID + "-" + parentID + "-0":                          "",
		"00-" + traceID + "-" + parentID + "-0x":                         "",
		"00_" + traceID + "-" + parentID + "-01":                         "",
		"00-" + traceID + "-" + parentID + "_01":                         "",
		"00-" + traceID[1:] + "-" + parentID + "-01":                     "",
		"00-" + traceID + "-" + parentID + "-01,00-" + traceID + "-…-01": "",
	} {
		c, ok := parseParent(in)
		got := ""
		if ok {
			got = hex.EncodeToString([]byte{c.flags})
			if hex.EncodeToString(c.trace[:]) != traceID || hex.EncodeToString(c.parent[:]) != parentID {
				t.Errorf("%s: %+v", in, c)
			}
		}
		if got != want {
			t.Errorf("%q: flags %q, want %q", in, got, want)
		}
	}
}

// wellFormed is the grammar of W3C Trace Context, 3.2.2 and 3.2.4.
var wellFormed = regexp.MustCompile(`^(?:00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})|([0-9a-e][0-9a-f]|f[0-9a-e])-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?)$`)

func FuzzParent(f *testing.F) {
	f.Add("00-" + traceID + "-" + parentID + "-01")
	f.Add("01-" + traceID + "-" + parentID + "-01-x")
	f.Add("00-" + strings.Repeat("0", 32) + "-" + parentID + "-01")
	f.Fuzz(func(t *testing.T, s string) {
		m := wellFormed.FindStringSubmatch(strings.ReplaceAll(s, "\n", " "))
		want := false
		if m != nil && (m[1] != "" || m[4] != "00") {
			want = m[1]+m[5] != strings.Repeat("0", 32) && m[2]+m[6] != strings.Repeat("0", 16)
		}
		if _, ok := parseParent(s); ok != want {
			t.Errorf("parseParent(%q) = %v, want %v", s, ok, want)
		}
	})
}

func TestState(t *testing.T) {
	for _, tt := range []struct {
		fields []string
		want   string
		ok     bool
	}{
		{nil, "", true},
		{[]string{"a=1"}, "a=1", true},
		{[]string{"a=1 , b@c=2", "d*/-_=x y"}, "a=1 , b@c=2,d*/-_=x y", true},
		{[]string{"a=1,,b=2"}, "a=1,,b=2", true},
		{[]string{""}, "", true},
		{[]string{"a"}, "", false},
		{[]string{"a="}, "", false},
		{[]string{"A=1"}, "", false},
		{[]string{"a=b=c"}, "", false},
		{[]string{"a=\x01"}, "", false},
		{[]string{"a=é"}, "", false},
		{[]string{"a=" + strings.Repeat("x", 257)}, "", false},
		{[]string{strings.Repeat("a=1,", 32)}, strings.Repeat("a=1,", 32), true},
		{[]string{strings.Repeat("a=1,", 33)}, "", false},
		{[]string{"a=" + strings.Repeat("x", 200), "b=" + strings.Repeat("x", 200), "c=" + strings.Repeat("x", 200), "d=" + strings.Repeat("x", 200), "e=" + strings.Repeat("x", 200), "f=1234567890"}, "", false},
	} {
		x := &exchange.Exchange{}
		for _, v := range tt.fields {
			x.Request.Append("tracestate", v)
		}
		if got, ok := tracestate(x); ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q: %q, %v, want %q, %v", tt.fields, got, ok, tt.want, tt.ok)
		}
	}
}
