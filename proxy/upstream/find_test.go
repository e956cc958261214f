package upstream

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

// FuzzCookie: a cookie that net/http finds is found, with the same value. What
// net/http skips as malformed may be found, too: it only chooses an instance.
func FuzzCookie(f *testing.F) {
	for _, s := range []string{"a=1; srv=x; b=2", "srv=\"x\"", "srv=", "xsrv=1;srv=2", "srv", "srv=1, srv=2", " srv =1", ";;srv=x;"} {
		f.Add(s, "srv=y")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		if !httpguts.ValidHeaderFieldValue(one) || !httpguts.ValidHeaderFieldValue(two) {
			return
		}
		x := request("GET", "/", "Cookie", one, "Cookie", two)
		got := cookie(x, "srv")
		if strings.ContainsAny(got, ";") {
			t.Errorf("cookie in %q is %q", one, got)
		}
		r := http.Request{Header: http.Header{"Cookie": {one, two}}}
		want, err := r.Cookie("srv")
		first := strings.HasPrefix(strings.TrimLeft(one, " \t"), "srv=")
		if err == nil && want.Value != "" && !strings.Contains(one+two, `"`) && first && strings.Trim(want.Value, " \t") != got && len(r.CookiesNamed("srv")) == strings.Count(one+two, "srv") {
			t.Errorf("cookie in %q, %q is %q, to net/http %q", one, two, got, want.Value)
		}
	})
}

// FuzzQuery: the first parameter that net/url finds, as it stands there. One
// whose name is escaped, or that has no "=", isn't found: it only chooses an
// instance.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"id=1", "a=b&id=1&id=2", "xid=1&id", "id=a%20b+c", "&&id=", "id==1", "i%64=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, q string) {
		got := query(q, "id")
		values, err := url.ParseQuery(q)
		if err != nil || strings.Contains(q, "%69") || strings.Contains(q, "%64") || slices.Contains(strings.Split(q, "&"), "id") {
			return
		}
		if want, ok := values["id"]; ok {
			if dec, err := url.QueryUnescape(got); err != nil || dec != want[0] {
				t.Errorf("id in %q is %q, to net/url %q", q, got, want[0])
			}
		} else if got != "" {
			t.Errorf("id in %q is %q, to net/url not there", q, got)
		}
	})
}
