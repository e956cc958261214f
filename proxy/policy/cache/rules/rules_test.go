package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// head makes one of "Name: value" lines.
func head(lines ...string) *exchange.Head {
	h := &exchange.Head{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		h.Append(name, strings.TrimPrefix(value, " "))
	}
	return h
}

func TestEachDirective(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""}, {",, ,", ""}, {"a", "a"}, {"a,b", "a b"}, {" a , b ", "a b"}, {"a=1", "a=1"}, {"a=", "a="}, {"a=1,b", "a=1 b"}, {`a="1"`, "a=1"}, {`a="1,2",b`, "a=1,2 b"},
		{`a="1\"2",b`, `a=1"2 b`}, {`a="1`, "a=1"}, {`a="1\`, `a=1\`}, {`a="1"x,b`, "a=1 b"}, {"a = 1,b", "a= b"}, {"a= 1", "a= 1"}, {"=1,b", "=1 b"}, {`a="",b`, "a= b"},
	} {
		var got []string
		EachDirective(tt.in, func(name, value string, valued bool) {
			if valued {
				name += "=" + value
			}
			got = append(got, name)
		})
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("EachDirective(%q) = %q, want %q", tt.in, s, tt.want)
		}
	}
}

func TestParseDelta(t *testing.T) {
	for in, want := range map[string]int64{
		"": 0, "0": 0, "1": 1, "00010": 10, "2147483647": 2147483647, "2147483648": 1 << 31, "2147483649": 1 << 31, "99999999999999999999999": 1 << 31,
		"-1": 0, "+1": 0, "1.0": 0, "1 ": 0, "1e3": 0, "0x10": 0, "१": 0,
	} {
		if got := ParseDelta(in); got != want {
			t.Errorf("ParseDelta(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestTargeted(t *testing.T) {
	flags := func(c Control) string {
		return fmt.Sprintf("flags %#x max-age %d s-maxage %d private %v", c.Flags, c.MaxAge, c.SMaxAge, c.PrivateFields)
	}
	const nothing = "flags 0x0 max-age -1 s-maxage -1 private []"
	for _, tt := range []struct {
		in   string
		want string
		ok   bool
	}{
		{"max-age=10", "flags 0x0 max-age 10 s-maxage -1 private []", true}, {"max-age=10, s-maxage=20", "flags 0x0 max-age 10 s-maxage 20 private []", true},
		{"max-age=10, max-age=20", "flags 0x0 max-age 20 s-maxage -1 private []", true}, {"no-store", fmt.Sprintf("flags %#x max-age -1 s-maxage -1 private []", NoStore), true},
		{"no-store=?0", nothing, true}, {"no-store=1", nothing, true}, {`private="a, b"`, "flags 0x0 max-age -1 s-maxage -1 private [a b]", true}, {"private=?0", nothing, true},
		{"max-age=10;x=y;z", "flags 0x0 max-age 10 s-maxage -1 private []", true}, {"max-age=10 , x", "flags 0x0 max-age 10 s-maxage -1 private []", true}, {"max-age=token", nothing, true},
		{"max-age=1.5", nothing, true}, {"", nothing, false}, {"max-age=10,", nothing, false}, {",max-age=10", nothing, false}, {"Max-Age=10", nothing, false}, {"max-age=", nothing, false}, {"max-age=1.", nothing, false},
		{`a="x`, nothing, false}, {`a="\x"`, nothing, false}, {"a=?2", nothing, false}, {"a b", nothing, false}, {"a;=1", nothing, false}, {"a=(1 2)", nothing, false}, {"a=12345678901234567", nothing, false},
	} {
		c, ok := Targeted(head("CDN-Cache-Control: " + tt.in))
		if flags(c) != tt.want || ok != tt.ok {
			t.Errorf("Targeted(%q) = %s, %v, want %s, %v", tt.in, flags(c), ok, tt.want, tt.ok)
		}
	}
}

func TestParseDate(t *testing.T) {
	want := time.Date(1994, 11, 6, 8, 49, 37, 0, time.UTC)
	for _, s := range []string{"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"} {
		if got, ok := ParseDate(s); !ok || !got.Equal(want) {
			t.Errorf("ParseDate(%q) = %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "0", "-1", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 +0000", "Sun, 32 Nov 1994 08:49:37 GMT", "1994-11-06T08:49:37Z", "Sun, 06 Nov 1994 08:49:37.5 GMT", "06 Nov 1994 08:49:37 GMT"} {
		if got, ok := ParseDate(s); ok {
			t.Errorf("ParseDate(%q) = %v", s, got)
		}
	}
}

func TestTags(t *testing.T) {
	for _, tt := range []struct {
		a, b         string
		strong, weak bool
	}{ // RFC 9110, 8.8.3.2, and more
		{`W/"1"`, `W/"1"`, false, true}, {`W/"1"`, `W/"2"`, false, false}, {`W/"1"`, `"1"`, false, true}, {`"1"`, `"1"`, true, true}, {`"1"`, `"2"`, false, false},
		{"1", "1", false, false}, {"", "", false, false}, {`"`, `"`, false, false}, {`""`, `""`, true, true}, {`w/"1"`, `"1"`, false, false},
	} {
		if s, w := StrongEqual(tt.a, tt.b), WeakEqual(tt.a, tt.b); s != tt.strong || w != tt.weak {
			t.Errorf("%s, %s: strong %v, weak %v, want %v, %v", tt.a, tt.b, s, w, tt.strong, tt.weak)
		}
	}
	var got []string
	EachTag(`"a" , W/"b,c",, d, "e`, func(tag string) bool { got = append(got, tag); return true })
	if d := cmp.Diff([]string{`"a"`, `W/"b,c"`, "d", `"e`}, got); d != "" {
		t.Error(d)
	}
}

func TestVary(t *testing.T) {
	names, any := Vary(head("Vary: B, a", "Vary: b,,"))
	if d := cmp.Diff([]string{"a", "b"}, names); d != "" || any {
		t.Error(d, any)
	}
	for _, s := range []string{"*", "a, *", "a b", "a;q=1"} {
		if _, any := Vary(head("Vary: " + s)); !any {
			t.Errorf("Vary: %s can be matched", s)
		}
	}
}

func TestVariant(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"X-A", "", ""}, {"X-A", "X-A:", "="}, {"X-A", "X-A: a , b", "=a,b"}, {"X-A", `X-A: "a , b"`, `="a , b"`}, {"X-A", "X-A: a  b", "=a  b"}, {"X-A", `X-A: "a\" , b" , c`, `="a\" , b",c`},
		{"accept-encoding", "", ""}, {"accept-encoding", "Accept-Encoding:", "="}, {"accept-encoding", "Accept-Encoding: gzip, deflate, br, zstd", "=br,deflate,gzip,zstd,"},
		{"accept-encoding", "Accept-Encoding: br;q=1.0, gzip;q=0.8, *;q=0.1", "=*,br,gzip,"}, {"accept-encoding", "Accept-Encoding: gzip;q=0.000, br", "=br,"},
		{"accept-encoding", "Accept-Encoding: identity;q=0, gzip ; q=0", "=!identity,"}, {"accept-encoding", "Accept-Encoding: gzip,gzip", "=gzip,"},
	} {
		h := head()
		if tt.in != "" {
			h = head(tt.in)
		}
		if got := string(AppendVariant(nil, h, tt.name)); got != tt.want {
			t.Errorf("%s of %q = %q, want %q", tt.name, tt.in, got, tt.want)
		}
	}
}

func TestInitialAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	date := func(d time.Duration) string { return "Date: " + now.Add(-d).Format(HTTPDate) }
	for _, tt := range []struct {
		took  time.Duration
		lines []string
		want  time.Duration
	}{
		{0, nil, 0}, {3 * time.Second, nil, 3 * time.Second}, {3 * time.Second, []string{"Age: 10"}, 13 * time.Second}, {0, []string{"Age: 10", date(time.Minute)}, time.Minute},
		{0, []string{"Age: 100", date(time.Minute)}, 100 * time.Second}, {0, []string{date(-time.Minute)}, 0}, {0, []string{"Age: -10"}, 0}, {0, []string{"Age: 10, 20"}, 10 * time.Second}, {0, []string{"Age: x"}, 0}, {0, []string{"Age: ,"}, 0},
	} {
		if got := InitialAge(head(tt.lines...), now.Add(-tt.took), now); got != tt.want {
			t.Errorf("InitialAge(%q, %v) = %v, want %v", tt.lines, tt.took, got, tt.want)
		}
	}
}

func TestUpdate(t *testing.T) {
	old := head("Date: d1", "ETag: \"a\"", "Content-Type: t1", "X-A: 1", "X-A: 2", "X-B: 1", "Cache-Control: max-age=1")
	news := head("Date: d2", "Content-Type: t2", "Content-Length: 0", "X-A: 3", "X-C: 1", "Connection: close", "Age: 5", "X-Drop: 1")
	got := Update(old, news, []string{"x-drop", "x-b"}, time.Time{})
	var list []string
	for i := range got.Len() {
		name, value := got.Field(i)
		list = append(list, name+": "+value)
	}
	if d := cmp.Diff([]string{"ETag: \"a\"", "Content-Type: t1", "Cache-Control: max-age=1", "Date: d2", "X-A: 3", "X-C: 1"}, list); d != "" {
		t.Error(d)
	}
}

// FuzzControl: whatever stands in Cache-Control, what forbids storing is found
// wherever a plain reading of the list finds it, and no time is below 0.
func FuzzControl(f *testing.F) {
	for _, s := range []string{"max-age=100, no-store", `foo="a,no-store", private`, `private="a, b", no-cache`, `a="b\"`, "max-age=,,=", "no-store=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h := head("Cache-Control: " + s)
		for _, c := range []Control{RequestControl(h), ResponseControl(h)} {
			for _, n := range []int64{c.MaxAge, c.SMaxAge, c.MaxStale, c.MinFresh, c.WhileRevalidate, c.IfError} {
				if n < none || n > most {
					t.Errorf("%q: %d seconds", s, n)
				}
			}
			if strings.ContainsAny(s, `"\`) {
				continue // a plain reading doesn't know quoted strings
			}
			exchange.EachToken(s, func(word string) bool {
				if strings.EqualFold(word, "no-store") && !c.Has(NoStore) {
					t.Errorf("%q: no-store is overlooked", s)
				}
				if strings.EqualFold(word, "private") && !c.Has(Private) {
					t.Errorf("%q: private is overlooked", s)
				}
				return true
			})
		}
		if v := Judge(Asked{}, 200, head("Cache-Control: "+s, "ETag: \"a\""), Options{}); v.Store && v.Lifetime < 0 {
			t.Errorf("%q: %v", s, v.Lifetime)
		}
	})
}

// FuzzTargeted: nothing makes it fail, and what isn't valid says nothing.
func FuzzTargeted(f *testing.F) {
	for _, s := range []string{"max-age=10, no-store", `a="\"";b=?1, c=1.5`, "a=(", "max-age=10,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := Targeted(head("CDN-Cache-Control: " + s))
		if !ok && (c.Flags != 0 || c.MaxAge != none || c.Given) {
			t.Errorf("%q isn't valid, and says %+v", s, c)
		}
	})
}

// FuzzVariant: requests that differ in more than white space, order of codings and
// lines have different variants; the same field in two lines has the same.
func FuzzVariant(f *testing.F) {
	f.Add("gzip, br", "br;q=0, gzip")
	f.Add("a", "a, b")
	f.Add(`"a , b"`, `"a,b"`)
	f.Fuzz(func(t *testing.T, a, b string) {
		clean := func(s string) bool { return exchange.ValidValue(s) }
		if !clean(a) || !clean(b) {
			return
		}
		variant := func(name string, lines ...string) string {
			h := &exchange.Head{}
			for _, l := range lines {
				h.Append(name, l)
			}
			return string(AppendVariant(nil, h, name))
		}
		if strings.Count(a, `"`)%2 == 0 && !strings.Contains(a, `\`) && variant("X-A", a, b) != variant("X-A", a+", "+b) {
			t.Errorf("two lines %q and %q: %q and %q", a, b, variant("X-A", a, b), variant("X-A", a+", "+b))
		}
		none := func(s string) string { return strings.NewReplacer(" ", "", "\t", "").Replace(s) }
		if none(a) != none(b) && variant("X-A", a) == variant("X-A", b) {
			t.Errorf("%q and %q are one variant", a, b)
		}
		if variant("Accept-Encoding", a) == variant("Accept-Encoding", b) && codings(a) != codings(b) {
			t.Errorf("%q and %q are one variant: %q, %q", a, b, codings(a), codings(b))
		}
	})
}

// codings are those that a client takes, of a few, by another reading.
func codings(s string) string {
	var out string
	for _, coding := range []string{"gzip", "br", "zstd"} {
		for word := range strings.SplitSeq(s, ",") {
			name, q, _ := strings.Cut(word, ";")
			q = strings.ToLower(strings.Trim(q, " \t"))
			none := strings.HasPrefix(q, "q=") && len(q) > 2 && strings.Trim(q[2:], "0.") == ""
			if name = strings.ToLower(strings.Trim(name, " \t")); (name == coding || coding == "gzip" && name == "x-gzip") && !none {
				out += coding + ","
				break
			}
		}
	}
	return out
}
