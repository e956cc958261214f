package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// details are more cases of the same rules: what MUST and SHOULD say of fields.
func details(add adder, one single) {
	// RFC 9111, 3.1: fields of proxies aren't stored.
	add("", "RFC 9111 3.1 fields of proxies", []string{"200 Cache-Control: max-age=100| Proxy-Authenticate: Basic| Proxy-Authentication-Info: x| Proxy-Connection: close| TE: x| Upgrade: x| X-C: 3"},
		second("GET -> 1 200 1 Proxy-Authenticate=~| Proxy-Authentication-Info=~| Proxy-Connection=~| Te=~| Upgrade=~| X-C=3"))
	add("", "RFC 9111 3.1 unknown fields are stored", []string{"200 Cache-Control: max-age=100| X-Unknown: a| Content-Language: de| Content-Location: /x| Retry-After: 5"},
		second("GET -> 1 200 1 X-Unknown=a| Content-Language=de| Content-Location=/x| Retry-After=5"))
	add("", "RFC 9110 6.5.1 Trailer and framing of another message", []string{"200 Cache-Control: max-age=100| Trailer: X-T"}, second("GET -> 1 200 1 Trailer=~| Transfer-Encoding=~| Content-Length=8"))
	validation(add)
	conditions(add, one)
	notModifiedFields(add)
	// RFC 9111, 4.2.1: repeated directives, the first holds, on several lines, too.
	for _, c := range []struct {
		says string
		how  []string
	}{
		{"Cache-Control: max-age=100| Cache-Control: max-age=0", hit}, {"Cache-Control: max-age=0| Cache-Control: max-age=100", miss}, {"Cache-Control: s-maxage=0, s-maxage=100", miss},
		{`Cache-Control: max-age="100`, hit}, {`Cache-Control: max-age="1\0\0"`, hit}, {`Cache-Control: "max-age=100"`, miss}, {`Cache-Control: max-age="100", no-store`, miss},
		{"Cache-Control: max-age=2147483649", hit}, {"Cache-Control: s-maxage=18446744073709551616", hit}, {"Cache-Control: max-age=0x64", miss}, {"Cache-Control: max-age=1e2", miss}, {"Cache-Control: max-age=+100", miss},
		{"Cache-Control: max-age=100 ", hit}, {"Cache-Control: max-age=100 public", miss}, {"Cache-Control:max-age=100", hit}, {"Cache-Control: max-age=100,public,no-store", miss}, {"Cache-Control: no-store=foo, max-age=100", miss},
		{"Cache-Control: private=, max-age=100", miss}, {"Cache-Control: public=foo, max-age=100", hit}, {"Cache-Control: must-revalidate=foo, max-age=100", hit}, {"Cache-Control: | Expires: {100}", hit}, {"Cache-Control: foo| Expires: {100}", hit},
	} {
		one("RFC 9111 4.2.1 "+c.says, "200 "+c.says, c.how)
	}
	// RFC 9110, 5.6.7: dates.
	for _, c := range []struct {
		says string
		how  []string
	}{
		{"Expires: Thu, 18 Aug 2050 02:01:18 gmt", miss}, {"Expires: Thu, 18-Aug-2050 02:01:18 GMT", miss}, {"Expires: 2050-08-18T02:01:18Z", miss}, {"Expires: Thu, 18 Aug 2050 2:01:18 GMT", miss}, {"Expires: Thu,18 Aug 2050 02:01:18 GMT", miss},
		{"Expires: Thu, 18 Aug 2050 24:01:18 GMT", miss}, {"Expires: Thu, 31 Jun 2050 02:01:18 GMT", miss}, {"Expires: ", miss}, {"Expires: {100}, {100}", miss}, {"Date: | Cache-Control: max-age=100", hit},
		{"Date: {-50}| Date: {-150}| Cache-Control: max-age=100", hit},
	} {
		one("RFC 9110 5.6.7 "+c.says, "200 "+c.says, c.how)
	}
	// RFC 9111, 5.1: Age on whatever comes from memory.
	v := `200 Cache-Control: max-age=100| Age: 5| ETag: "a"`
	for _, c := range []string{`GET If-None-Match: "a" -> 1 304 -`, "GET Range: bytes=0-2 -> 1 206 ans", "GET Range: bytes=8- -> 1 416 -", "HEAD -> 1 200 -"} {
		add("", "RFC 9111 5.1 Age, "+c, []string{v}, second(c+" Age=5"))
	}
	add("", "RFC 9111 5.1 Age of an error", []string{"404 Cache-Control: max-age=100| Age: 5"}, []string{"GET -> 1 404 1", "GET -> 1 404 1 Age=5"})
	add("", "RFC 9111 5.1 a redirect", []string{"301 Cache-Control: max-age=100| Location: /x"}, []string{"GET -> 1 301 1", "GET -> 1 301 1 Location=/x| Age=0"})
	// RFC 9111, 5.5: Warning isn't made any more.
	one("RFC 9111 5.5 no Warning with what is stale", "200 Cache-Control: max-age=100| Age: 150", second("GET Cache-Control: max-stale -> 1 200 1 Warning=~| Age=150"))
	add("", "RFC 9111 5.5 no Warning instead of an error", []string{`200 Cache-Control: max-age=100, stale-if-error=1000| Age: 200`, "503 X-A: 1"}, second("GET -> 2 200 1 Warning=~"))
	// RFC 8246: a reload doesn't ask again, no-cache does.
	im := `200 Cache-Control: max-age=100, immutable| Age: 5| ETag: "a"`
	one("RFC 8246 2 a reload", im, second("GET Cache-Control: max-age=0 -> 1 200 1"))
	one("RFC 8246 2 no-cache", im, second("GET Cache-Control: no-cache -> 2 200 2"))
	one("RFC 8246 2 a reload when it is stale", `200 Cache-Control: max-age=100, immutable| Age: 150| ETag: "a"`, second("GET Cache-Control: max-age=0 -> 2 200 2"))
	one("RFC 8246 2 min-fresh", im, second("GET Cache-Control: min-fresh=99 -> 2 200 2"))
	cacheStatus(add, one)
}

// validation: RFC 9111, 4.3.3 and 4.3.4.
func validation(add adder) {
	tag := `200 Cache-Control: max-age=0| ETag: "a"| X-V: 1`
	add("", "RFC 9111 4.3.4 a 304 with another strong tag changes nothing", []string{tag, `304 Cache-Control: max-age=100| ETag: "b"| X-V: 2`, freshSays}, []string{"GET -> 1 200 1", "GET -> 2 200 1 Etag=\"a\"| X-V=1", "GET -> 3 200 3"})
	add("", "RFC 9111 4.3.4 a 304 with the weak form of a strong tag", []string{tag, `304 Cache-Control: max-age=100| ETag: W/"a"`}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 2 200 1"})
	add("", "RFC 9111 4.3.4 a 304 with another date of change", []string{"200 Cache-Control: max-age=0| Last-Modified: {-1000}", "304 Cache-Control: max-age=100| Last-Modified: {-500}", freshSays}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 3 200 3"})
	add("", "RFC 9111 4.3.4 a 304 without a validator", []string{tag, "304 Cache-Control: max-age=100| X-V: 2"}, []string{"GET -> 1 200 1", "GET -> 2 200 1 X-V=2", "GET -> 2 200 1"})
	add("", "RFC 9111 4.3.4 Age after a 304", []string{tag + "| Age: 50", "304 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", "GET -> 2 200 1 Age=0", "GET -> 2 200 1 Age=0"})
	add("", "RFC 9111 4.3.4 a 304 that is old itself", []string{tag, "304 Cache-Control: max-age=100| Age: 150", "304 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", "GET -> 2 200 1 Age=150", "GET -> 3 200 1 Age=0"})
	add("", "RFC 9111 4.3.2 a client's condition on what is stale holds", []string{tag, "304 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", `GET If-None-Match: "a" -> 2 304 -`})
	add("", "RFC 9111 4.3.2 a client's condition on what is stale doesn't hold", []string{tag, "304 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", `GET If-None-Match: "b" -> 2 200 1`})
	add("", "RFC 9111 4.3.2 a client's condition on what has changed", []string{tag, freshSays + `| ETag: "b"`}, []string{"GET -> 1 200 1", `GET If-None-Match: "b" -> 2 304 -`, "GET -> 2 200 2"})
	add("", "RFC 9111 4.3.3 a new answer is given as it is, and stored", []string{tag, `200 Cache-Control: max-age=100| ETag: "b"| X-V: 2`}, []string{"GET -> 1 200 1", "GET -> 2 200 2 X-V=2| Age=~", "GET -> 2 200 2 X-V=2"})
	add("", "RFC 9111 4.3.3 an error leaves what is stored", []string{tag, "503 X-A: 1", "304 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", "GET -> 2 503 2", "GET -> 3 200 1"})
	add("", "RFC 9111 5.2.2.2 must-revalidate, and the service fails", []string{`200 Cache-Control: max-age=0, must-revalidate, stale-if-error=1000| ETag: "a"`, "503 X-A: 1"}, []string{"GET -> 1 200 1", "GET -> 2 503 2"})
	add("", "RFC 9111 5.2.2.8 proxy-revalidate, and the service fails", []string{`200 Cache-Control: max-age=0, proxy-revalidate, stale-if-error=1000| ETag: "a"`, "503 X-A: 1"}, []string{"GET -> 1 200 1", "GET -> 2 503 2"})
	add("", "RFC 9111 4 the latest of several", []string{"200 Cache-Control: max-age=100| Vary: X-A| Date: {-50}", "200 Cache-Control: max-age=100| Vary: X-B| Date: {-10}"}, []string{"GET X-A: 1| X-B: 1 -> 1 200 1", "GET X-A: 2| X-B: 2 -> 2 200 2", "GET X-A: 1| X-B: 2 -> 2 200 2"})
}

// conditions: RFC 9110, 13 and 14.
func conditions(add adder, one single) {
	v := `200 Cache-Control: max-age=100| ETag: "a"| Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT`
	for _, c := range []struct{ field, want string }{
		{"If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT", "304 -"}, {"If-Modified-Since: Sun Nov  6 08:49:37 1994", "304 -"}, {"If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT", "200 1"}, {"If-Modified-Since: Sun, 06 Nov 1994 08:49:37", "200 1"},
		{"If-Modified-Since: {0}| If-Modified-Since: {0}", "200 1"}, {`If-None-Match: ,"a"`, "304 -"}, {`If-None-Match: "b" "a"`, "304 -"}, {`If-None-Match: "`, "200 1"}, {`If-None-Match: *, "b"`, "304 -"}, {"If-None-Match: | If-Modified-Since: {0}", "200 1"},
		{`If-Range: "a"`, "200 1"}, {`If-Range: "b"`, "200 1"}, {"If-Range: Sunday, 06-Nov-94 08:49:37 GMT| Range: bytes=0-2", "206 ans"}, {`If-Range: *| Range: bytes=0-2`, "200 1"}, {`If-Range: "a", "b"| Range: bytes=0-2`, "200 1"},
		{`If-Range: "a"| Range: bytes=8-`, "416 -"}, {`If-Range: "b"| Range: bytes=8-`, "200 1"}, {`If-None-Match: "b"| If-Range: "a"| Range: bytes=0-2`, "206 ans"}, {"Cache-Control: max-age=50| Range: bytes=0-2", "206 ans"},
	} {
		add("", "RFC 9110 13 "+c.field, []string{v}, second("GET "+c.field+" -> 1 "+c.want))
	}
	add("", "RFC 9110 13.1.2 HEAD with a condition that holds", []string{v}, second(`HEAD If-None-Match: "a" -> 1 304 -`))
	add("", "RFC 9110 13.1.2 HEAD with a condition that doesn't", []string{v}, second(`HEAD If-None-Match: "b" -> 1 200 - Content-Length=8`))
	add("", "RFC 9111 4.3.2 If-Modified-Since without Last-Modified goes by Date", []string{"200 Cache-Control: max-age=100| Date: {-50}"}, second("GET If-Modified-Since: {-40} -> 1 304 -"))
	add("", "RFC 9111 4.3.2 If-Modified-Since before Date", []string{"200 Cache-Control: max-age=100| Date: {-50}"}, second("GET If-Modified-Since: {-60} -> 1 200 1"))
	add("", "RFC 9110 13.1.5 If-Range by a date that is too young to be strong", []string{"200 Cache-Control: max-age=100| Last-Modified: {-10}"}, second("GET Range: bytes=0-2| If-Range: {-10} -> 1 200 1"))
	add("", "RFC 9110 13.1.5 If-Range with a weak tag that is the stored one", []string{`200 Cache-Control: max-age=100| ETag: W/"a"`}, second(`GET Range: bytes=0-2| If-Range: W/"a" -> 1 200 1`))
	add("", "RFC 9110 14.2 a range of an answer that isn't 200", []string{"203 Cache-Control: max-age=100"}, []string{"GET -> 1 203 1", "GET Range: bytes=0-2 -> 1 203 1"})
	add("", "RFC 9110 14.2 a range that has to be validated", []string{`200 Cache-Control: no-cache| ETag: "a"`, "304 X-A: 1"}, []string{"GET -> 1 200 1", "GET Range: bytes=0-2 -> 2 206 ans Content-Range=bytes 0-2/8"})
	one("RFC 9110 13.1.1 If-Match of what isn't stored goes to the service, and isn't stored", freshSays, []string{`GET If-Match: "a" -> 1 200 1`, "GET -> 2 200 2"})
}

// notModifiedFields: RFC 9110, 15.4.5 and 15.3.7: what 304 and 206 have to have.
func notModifiedFields(add adder) {
	v := `200 Cache-Control: max-age=100| ETag: "a"| Vary: X-A| Expires: {100}| Content-Location: /x| Content-Type: text/x`
	fields := " Etag=\"a\"| Vary=X-A| Expires=*| Content-Location=/x| Date=*| Cache-Control=max-age=100"
	add("", "RFC 9110 15.4.5 what 304 has", []string{v}, second(`GET If-None-Match: "a" -> 1 304 -`+fields+"| Content-Type=~| Content-Length=~"))
	add("", "RFC 9110 15.3.7 what 206 has", []string{v}, second(`GET Range: bytes=0-2 -> 1 206 ans`+fields+"| Content-Type=text/x| Content-Length=3"))
	add("", "RFC 9110 15.3.7 what 206 of the first request has", []string{v + "| Content-Length: 8"}, []string{`GET Range: bytes=0-2 -> 1 206 ans` + fields + "| Content-Type=text/x| Content-Length=3"})
}

// cacheStatus: RFC 9211, 2.
func cacheStatus(add adder, one single) {
	one("RFC 9211 2.5 fwd-status, a part of a whole", freshSays+"| Content-Length: 8", []string{"GET Range: bytes=0-2 -> 1 206 ans Cache-Status=sidegate; fwd=uri-miss; fwd-status=200; stored"})
	one("RFC 9211 2.5 fwd-status, a condition", freshSays+`| ETag: "a"`, []string{`GET If-None-Match: "a" -> 1 304 - Cache-Status=sidegate; fwd=uri-miss; fwd-status=200; stored`})
	add("", "RFC 9211 2.2 fwd=stale, validated", []string{`200 Cache-Control: max-age=0| ETag: "a"`, "304 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", "GET -> 2 200 1 Cache-Status=sidegate; fwd=stale; fwd-status=304; ttl=*"})
	add("", "RFC 9211 2.2 fwd=stale, instead of an error", []string{"200 Cache-Control: max-age=100, stale-if-error=1000| Age: 200", "503 X-A: 1"}, second(`GET -> 2 200 1 Cache-Status=sidegate; fwd=stale; fwd-status=503; detail="stale-if-error"; ttl=-10*`))
	add("", "RFC 9211 2.2 fwd=request", []string{freshSays + `| ETag: "a"`}, second("GET Cache-Control: no-cache -> 2 200 2 Cache-Status=sidegate; fwd=request; stored"))
	one("RFC 9211 2.4 ttl below 0", "200 Cache-Control: max-age=100| Age: 150", second("GET Cache-Control: max-stale -> 1 200 1 Cache-Status=sidegate; hit; ttl=-5*"))
	one("RFC 9211 2 only-if-cached", freshSays, []string{`GET Cache-Control: only-if-cached -> 0 504 - Cache-Status=sidegate; detail="only-if-cached"`})
	one("RFC 9211 2 no-store of the request", freshSays, []string{"GET Cache-Control: no-store -> 1 200 1 Cache-Status=sidegate; fwd=request"})
}

// TestCacheAsks: what the service sees of a request that validates (RFC 9111,
// 4.3.1), or may be stored.
func TestCacheAsks(t *testing.T) {
	o := &origin{cases: map[string]*cacheCase{}, calls: map[string]int{}, seen: map[string][]http.Header{}}
	_, client := cacheGateway(t, o)
	for i, tt := range []struct {
		name       string
		says, asks string // of the second request
		want       string
	}{
		{"4.3.1 by tag", `ETag: "a"`, "", `If-None-Match: "a"`},
		{"4.3.1 by date", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"},
		{"4.3.1 by both", `ETag: W/"a"| Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT`, "", `If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT, If-None-Match: W/"a"`},
		{"4.3.1 not by the client's", `ETag: "a"`, `If-None-Match: "b"| If-Modified-Since: {0}`, `If-None-Match: "a"`},
		{"14.2 of the whole", `ETag: "a"`, `Range: bytes=0-1| If-Range: "a"`, `If-None-Match: "a"`},
		{"5.2.1 what the client says of caches goes on", `ETag: "a"`, "Cache-Control: no-cache| Pragma: no-cache", `Cache-Control: no-cache, If-None-Match: "a", Pragma: no-cache`},
		{"13.1.1 If-Match goes as it is", `ETag: "a"`, `If-Match: "a"`, `If-Match: "a"`},
	} {
		path := fmt.Sprintf("/%d", i)
		c := &cacheCase{says: []string{"200 Cache-Control: max-age=0| " + tt.says}}
		o.mu.Lock()
		o.cases[path] = c
		o.mu.Unlock()
		for _, line := range []string{"GET -> 1 200 1", "GET " + tt.asks + " -> 2 200 2"} {
			if why := o.ask(client, c, path, line); why != "" && !strings.Contains(why, "206") {
				t.Fatalf("%s: %s", tt.name, why)
			}
		}
		var got []string
		for _, name := range []string{"Cache-Control", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "Pragma", "Range"} {
			for _, value := range o.seen[path][1][name] {
				got = append(got, name+": "+value)
			}
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s: the service is asked %s, want %s", tt.name, s, tt.want)
		}
	}
}
