package schema

import (
	"strings"
	"testing"
)

func TestFormats(t *testing.T) {
	for name, tt := range map[string]struct{ good, bad string }{
		"date-time":     {"2020-01-02T03:04:05Z 2020-01-02t03:04:05.123z 2020-01-02T03:04:05+01:30 1998-12-31T23:59:60Z 1998-12-31T15:59:60-08:00 2020-02-29T00:00:00Z", "2020-01-02 2020-01-02T03:04:05 2020-13-02T03:04:05Z 2021-02-29T00:00:00Z 2020-01-02T24:00:00Z 2020-01-02T03:04:60Z 2020-01-02T03:04:05+24:00 20200102T030405Z 2020-01-02T03:04:05,5Z"},
		"date":          {"2020-01-02 2020-02-29", "2020-1-2 2021-02-29 2020-01-02T00:00:00Z x"},
		"time":          {"03:04:05Z 03:04:05.5+01:00 23:59:60Z", "03:04 03:04:05 24:00:00Z"},
		"duration":      {"P1D PT1H P1Y2M3DT4H5M6S P2W PT0S P1M PT5M", "P PT 1D P1S PT1D P1W2D P1D2Y PT1S2M P-1D P1.5D"},
		"uuid":          {"f81d4fae-7dec-11d0-a765-00a0c91e6bf6 F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6", "f81d4fae7dec11d0a76500a0c91e6bf6 f81d4fae-7dec-11d0-a765-00a0c91e6bfg {f81d4fae-7dec-11d0-a765-00a0c91e6bf6}"},
		"email":         {"a@example.com a.b+c@sub.example.com o'x@x.org a@[127.0.0.1] a@[IPv6:::1]", "a @x a@ a@@x a.@x.com .a@x.com a..b@x.com a@-x.com a@x..com a@[x]"},
		"hostname":      {"example.com a localhost xn--bcher-kva.de 1.2.3", "-a.com a-.com a..b .a a_b " + strings.Repeat("a", 64)},
		"ipv4":          {"127.0.0.1 255.255.255.255", "256.0.0.1 1.2.3 01.2.3.4 ::1 1.2.3.4/8"},
		"ipv6":          {":: ::1 2001:db8::1 ::ffff:1.2.3.4", "1.2.3.4 :::1 fe80::1%eth0 12345::"},
		"uri":           {"https://example.com/a?b#c urn:x:y mailto:a@b", "/a a b://[ https://a/%zz http://a/\\b"},
		"uri-reference": {"/a a?b#c https://x //x", "a\\b %zz a|b"},
		"json-pointer":  {"/a/b~0~1 /", "a /~ /~2"},
		"byte":          {"YQ== YWI=", "YQ YQ= !"},
	} {
		f := formatOf(name)
		if f == nil {
			t.Errorf("%s isn't checked", name)
			continue
		}
		for _, s := range strings.Fields(tt.good) {
			if !f(s) {
				t.Errorf("%s: %q isn't taken", name, s)
			}
		}
		for _, s := range strings.Fields(tt.bad) {
			if f(s) {
				t.Errorf("%s: %q is taken", name, s)
			}
		}
	}
	if formatOf("phone") != nil {
		t.Error("a format of somebody's own is checked")
	}
}

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		pattern   string
		good, bad []string
	}{
		{`^\d+$`, []string{"12"}, []string{"", "1a", "١"}},
		{`^\w+$`, []string{"a_1"}, []string{"é", "-"}},
		{`^\s$`, []string{" ", "\u00a0", "\ufeff", "\v", "\u2028"}, []string{"a", "\u200b"}},
		{`^\S$`, []string{"a", "\u200b"}, []string{" ", "\u3000"}},
		{`^[\s\S]$`, []string{"a", " ", "\u00a0", "\n"}, nil},
		{`^[^\s]$`, []string{"a"}, []string{"\u2003"}},
		{`^.$`, []string{"a", "é", "💩"}, []string{"\n", "\r", "\u2028"}},
		{`^[.]$`, []string{"."}, []string{"a"}},
		{`^a$`, []string{"a"}, []string{"a\n", "b\na"}},
		{`^\u00e9\x41\u{1F4A9}\cJ$`, []string{"éA💩\n"}, []string{"e"}},
		{`^[\u0041-\u0043]$`, []string{"B"}, []string{"D"}},
		{`^[\w.\-]+$`, []string{"a-b.c"}, []string{"a b"}},
		{`^[a\-z]$`, []string{"-", "a", "z"}, []string{"b"}},
		{`^[[:alpha:]]$`, []string{"[]", "a]", ":]"}, []string{"b]", "b"}},
		{`^[^]$`, []string{"a", "\n"}, []string{""}},
		{`[]`, nil, []string{"", "a"}},
		{`^\p{L}\p{Script=Greek}$`, []string{"aλ"}, []string{"1λ", "aa"}},
		{`^(?:a|b)(?<name>c)$`, []string{"ac"}, []string{"c"}},
		{`^\/\.\-\@$`, []string{"/.-@"}, []string{"/a-@"}},
		{`^\0$`, []string{"\x00"}, []string{"0"}},
		{`^[\b]$`, []string{"\b"}, []string{"b"}},
		{`\bfoo\b`, []string{"a foo b"}, []string{"food"}},
	} {
		re, err := CompilePattern(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for _, s := range tt.good {
			if !re.MatchString(s) {
				t.Errorf("%s doesn't match %q (%s)", tt.pattern, s, re)
			}
		}
		for _, s := range tt.bad {
			if re.MatchString(s) {
				t.Errorf("%s matches %q (%s)", tt.pattern, s, re)
			}
		}
	}
	for _, p := range []string{`(?<=a)b`, `(?!a)`, `\1`, `\k<a>`, `\A`, `\z`, `\Q`, `[a`, `\`, `a\`, `\u12`, `\ud800`, `\p{Nonsense}`, `\pL`, `(`, `a**`} {
		if re, err := CompilePattern(p); err == nil {
			t.Errorf("%s becomes %s", p, re)
		}
	}
}
