package e2e

import "fmt"

// Two requests, of which the second is freshSays from memory, or isn't, or after
// the origin said that the stored answer still holds.
var (
	hit       = []string{"GET -> 1 200 1", "GET -> 1 200 1"}
	miss      = []string{"GET -> 1 200 1", "GET -> 2 200 2"}
	freshSays = "200 Cache-Control: max-age=100"
)

func second(line string) []string { return []string{"GET -> 1 200 1", line} }

// cacheCases are the rules of RFC 9111 and its relatives, by section.
func cacheCases() (list []cacheCase) {
	add := func(host, name string, says, asks []string) {
		list = append(list, cacheCase{name: name, host: host, says: says, asks: asks})
	}
	one := func(name, says string, asks []string) { add("", name, []string{says}, asks) }
	storing(add, one)
	statuses(add)
	lifetimes(add, one)
	asking(add, one)
	validating(add)
	varying(add)
	unsafeMethods(add)
	parts(add, one)
	targeted(one)
	operators(add)
	details(add, one)
	return list
}

type (
	adder  = func(host, name string, says, asks []string)
	single = func(name, says string, asks []string)
)

// storing: RFC 9111, 3 and 5.2.2.
func storing(add adder, one single) {
	for _, c := range []struct {
		cc  string
		how []string
	}{
		{"max-age=100", hit}, {"MAX-AGE=100", hit}, {"Max-Age=100", hit}, {`max-age="100"`, hit}, {"max-age=100, public", hit}, {"public, max-age=100", hit},
		{"s-maxage=100", hit}, {"max-age=0, s-maxage=100", hit}, {"s-maxage=0, max-age=100", miss}, {"max-age=100, s-maxage=0", miss}, {"no-store", miss},
		{"no-store, max-age=100", miss}, {"max-age=100, no-store", miss}, {"No-Store, max-age=100", miss}, {"private", miss}, {"private, max-age=100", miss},
		{"PRIVATE, max-age=100", miss}, {"no-cache", miss}, {"no-cache, max-age=100", miss}, {"max-age=100, no-cache", miss}, {"max-age=0", miss}, {"max-age=-1", miss},
		{"max-age=abc", miss}, {"max-age=1.5", miss}, {"max-age=100x", miss}, {"max-age='100'", miss}, {"max-age=", miss}, {"max-age", miss}, {"max-age = 100", miss},
		{"max-age= 100", miss}, {"max-age=100;max-stale=1", miss}, {"max-age=0100", hit}, {"max-age=2147483648", hit}, {"max-age=99999999999999999999", hit},
		{"max-age=0, max-age=100", miss}, {"max-age=100, max-age=0", hit}, {",max-age=100", hit}, {"max-age=100,", hit}, {",,max-age=100,,", hit}, {"foo, max-age=100", hit},
		{"foo=bar, max-age=100", hit}, {`foo="max-age=0", max-age=100`, hit}, {`foo="a,no-store", max-age=100`, hit}, {`foo="a\",no-store", max-age=100`, hit},
		{`max-age=100, foo="no-store`, hit}, {"max-age=100, no-storex", hit}, {"xno-store, max-age=100", hit}, {"no_store, max-age=100", hit}, {"max-age=100, must-revalidate", hit},
		{"max-age=100, proxy-revalidate", hit}, {"max-age=100, no-transform", hit}, {"max-age=100, immutable", hit}, {"must-understand, no-store, max-age=100", hit},
		{"no-store, must-understand, max-age=100", hit}, {"must-understand, max-age=100", hit}, {`private="x-a", max-age=100`, hit}, {`no-cache="x-a", max-age=100`, hit},
		{`private="", max-age=100`, miss}, {`no-cache="", max-age=100`, miss}, {`private, private="x-a", max-age=100`, miss}, {`no-cache="x-a", no-cache, max-age=100`, miss},
		{`private=x-a, max-age=100`, hit}, {"public", miss}, {"must-revalidate", miss}, {"immutable", miss}, {"only-if-cached, max-age=100", hit}, {"max-stale=100, max-age=100", hit},
	} {
		one("RFC 9111 5.2.2 Cache-Control: "+c.cc, "200 Cache-Control: "+c.cc, c.how)
	}
	one("RFC 9111 5.2 two lines", "200 Cache-Control: public| Cache-Control: max-age=100", hit)
	one("RFC 9111 5.2 two lines, one no-store", "200 Cache-Control: max-age=100| Cache-Control: no-store", miss)
	one("RFC 9111 3 nothing said", "200 X-A: 1", miss)
	one("RFC 9111 3 nothing said, a validator", `200 ETag: "a"`, miss)
	one("RFC 9111 5.4 Pragma of a response means nothing", "200 Cache-Control: max-age=100| Pragma: no-cache", hit)
	one("RFC 6265 Set-Cookie isn't stored", "200 Cache-Control: max-age=100| Set-Cookie: a=b", miss)
	one("RFC 6265 Set-Cookie isn't stored, public", "200 Cache-Control: max-age=100, public| Set-Cookie: a=b", miss)
	one("RFC 6265 Set-Cookie isn't stored, s-maxage", "200 Cache-Control: s-maxage=100| Set-Cookie: a=b", miss)
	add("", "RFC 9111 5.2.2.7 private=set-cookie", []string{`200 Cache-Control: max-age=100, private="set-cookie"| Set-Cookie: a=b`},
		[]string{"GET -> 1 200 1 Set-Cookie=a=b", "GET -> 1 200 1 Set-Cookie=~"})
	add("", "RFC 9111 5.2.2.7 private=field", []string{`200 Cache-Control: max-age=100, private="X-A, x-b"| X-A: 1| X-B: 2| X-C: 3`},
		[]string{"GET -> 1 200 1 X-A=1| X-B=2| X-C=3", "GET -> 1 200 1 X-A=~| X-B=~| X-C=3"})
	add("", "RFC 9111 5.2.2.4 no-cache=field", []string{`200 Cache-Control: max-age=100, no-cache="X-A"| X-A: 1| X-C: 3`},
		[]string{"GET -> 1 200 1 X-A=1| X-C=3", "GET -> 1 200 1 X-A=~| X-C=3"})
	add("", "RFC 9111 3.1 fields of the connection", []string{"200 Cache-Control: max-age=100| Connection: X-Hop| X-Hop: 1| Keep-Alive: timeout=1| X-C: 3"},
		[]string{"GET -> 1 200 1 X-C=3", "GET -> 1 200 1 X-Hop=~| Keep-Alive=~| X-C=3"})
	add("", "RFC 9111 3.1 fields of several lines", []string{"200 Cache-Control: max-age=100| Link: <a>| Link: <b>"}, []string{"GET -> 1 200 1 Link=<a>, <b>", "GET -> 1 200 1 Link=<a>, <b>"})
	auth := "GET Authorization: Basic YTpi"
	for _, c := range []struct {
		cc     string
		stored bool
	}{{"max-age=100", false}, {"max-age=100, public", true}, {"max-age=100, must-revalidate", true}, {"s-maxage=100", true}, {"max-age=100, proxy-revalidate", false}, {"max-age=100, immutable", false}} {
		asks := []string{auth + " -> 1 200 1", auth + " -> 2 200 2"}
		if c.stored {
			asks[1] = auth + " -> 1 200 1"
		}
		one("RFC 9111 3.5 Authorization, "+c.cc, "200 Cache-Control: "+c.cc, asks)
	}
	one("RFC 9111 3.5 a stored answer for a request with Authorization", freshSays, second(auth+" -> 1 200 1"))
}

// statuses: RFC 9111, 3; RFC 9110, 15.1.
func statuses(add adder) {
	both := func(status int, stored bool) []string {
		body := func(n int) string {
			if status == 204 {
				return "-"
			}
			return fmt.Sprint(n)
		}
		if stored {
			return []string{fmt.Sprintf("GET -> 1 %d %s", status, body(1)), fmt.Sprintf("GET -> 1 %d %s", status, body(1))}
		}
		return []string{fmt.Sprintf("GET -> 1 %d %s", status, body(1)), fmt.Sprintf("GET -> 2 %d %s", status, body(2))}
	}
	for _, s := range []int{200, 203, 204, 299, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 451, 500, 501, 502, 503, 504, 599} {
		add("", fmt.Sprintf("RFC 9111 3 status %d, fresh", s), []string{fmt.Sprintf("%d Cache-Control: max-age=100", s)}, both(s, true))
		add("", fmt.Sprintf("RFC 9111 3 status %d, no-store", s), []string{fmt.Sprintf("%d Cache-Control: no-store, max-age=100", s)}, both(s, false))
	}
	for _, s := range []int{400, 401, 402, 407, 408, 411, 412, 413, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431} {
		add("", fmt.Sprintf("poisoning: status %d is about one request", s), []string{fmt.Sprintf("%d Cache-Control: max-age=100", s)}, both(s, false))
	}
	for _, s := range []int{200, 203, 204, 300, 301, 308} {
		add("ttl.test", fmt.Sprintf("RFC 9110 15.1 status %d without a word, default_ttl", s), []string{fmt.Sprintf("%d X-A: 1", s)}, both(s, true))
	}
	for _, s := range []int{404, 405, 410, 414, 501} {
		add("ttl.test", fmt.Sprintf("RFC 9110 15.1 status %d without a word, negative_ttl", s), []string{fmt.Sprintf("%d X-A: 1", s)}, both(s, true))
	}
	for _, s := range []int{302, 303, 307, 403, 418, 500, 502, 599} {
		add("ttl.test", fmt.Sprintf("RFC 9110 15.1 status %d without a word isn't stored", s), []string{fmt.Sprintf("%d X-A: 1", s)}, both(s, false))
	}
	add("", "RFC 9111 5.2.2.3 must-understand, a status that isn't", []string{"299 Cache-Control: must-understand, max-age=100"}, both(299, false))
	add("", "RFC 9111 3.3 a part isn't stored", []string{"206 Cache-Control: max-age=100| Content-Range: bytes 0-7/100"}, both(206, false))
}

// lifetimes: RFC 9111, 4.2, 5.1, 5.3.
func lifetimes(add adder, one single) {
	for _, c := range []struct {
		name, says string
		how        []string
	}{
		{"5.3 Expires", "Expires: {100}", hit}, {"5.3 Expires in the past", "Expires: {-100}", miss}, {"5.3 Expires is now", "Expires: {0}", miss},
		{"5.3 Expires: 0", "Expires: 0", miss}, {"5.3 Expires: -1", "Expires: -1", miss}, {"5.3 Expires isn't a date", "Expires: tomorrow", miss},
		{"5.3 Expires without a time zone", "Expires: Thu, 18 Aug 2050 02:01:18", miss}, {"5.3 Expires in local time", "Expires: Thu, 18 Aug 2050 02:01:18 AEST", miss},
		{"5.3 Expires with +0000", "Expires: Thu, 18 Aug 2050 02:01:18 +0000", miss}, {"5.3 Expires with fractions", "Expires: Thu, 18 Aug 2050 02:01:18.5 GMT", miss},
		{"5.6.7 Expires as RFC 850 has it", "Expires: Thursday, 18-Aug-50 02:01:18 GMT", hit}, {"5.6.7 Expires as asctime has it", "Expires: Thu Aug 18 02:01:18 2050", hit},
		{"4.2.1 max-age counts more than Expires", "Cache-Control: max-age=100| Expires: {-100}", hit}, {"4.2.1 max-age=0 counts more than Expires", "Cache-Control: max-age=0| Expires: {100}", miss},
		{"4.2.1 s-maxage counts more than Expires", "Cache-Control: s-maxage=100| Expires: {-100}", hit}, {"4.2.1 two Expires, the first", "Expires: {100}| Expires: {-100}", hit},
		{"4.2.1 two Expires, the first in the past", "Expires: {-100}| Expires: {100}", miss}, {"5.3 Expires and no-cache", "Expires: {100}| Cache-Control: no-cache", miss},
		{"5.3 Expires and private", "Expires: {100}| Cache-Control: private", miss}, {"5.3 Expires and no-store", "Expires: {100}| Cache-Control: no-store", miss},
		{"5.3 Expires against Date", "Date: {-1000}| Expires: {-900}", miss}, {"4.2.1 Expires minus Date, both late", "Date: {1000}| Expires: {1100}", hit},
		{"4.2.3 Age below", "Cache-Control: max-age=100| Age: 50", hit}, {"4.2.3 Age above", "Cache-Control: max-age=100| Age: 150", miss}, {"4.2.3 Age equal", "Cache-Control: max-age=100| Age: 100", miss},
		{"4.2.3 Age and Expires", "Expires: {100}| Age: 150", miss}, {"5.1 Age isn't a number", "Cache-Control: max-age=100| Age: abc", hit}, {"5.1 Age below 0", "Cache-Control: max-age=100| Age: -150", hit},
		{"5.1 Age with fractions", "Cache-Control: max-age=100| Age: 150.5", hit}, {"5.1 Age of two, the first", "Cache-Control: max-age=100| Age: 150, 0", miss},
		{"5.1 Age of two lines, the first", "Cache-Control: max-age=100| Age: 0| Age: 150", hit}, {"5.1 a huge Age", "Cache-Control: max-age=100| Age: 99999999999999999999", miss},
		{"4.2.3 Date below", "Cache-Control: max-age=100| Date: {-50}", hit}, {"4.2.3 Date above", "Cache-Control: max-age=100| Date: {-150}", miss}, {"4.2.3 Date to come", "Cache-Control: max-age=100| Date: {50}", hit},
		{"4.2.3 the larger of Age and Date", "Cache-Control: max-age=100| Date: {-150}| Age: 1", miss}, {"4.2.3 the larger of Date and Age", "Cache-Control: max-age=100| Date: {-1}| Age: 150", miss},
		{"6.6.1 no Date", "Cache-Control: max-age=100| Date: ~", hit}, {"6.6.1 no Date, Expires", "Expires: {100}| Date: ~", hit}, {"4.2.3 Date isn't one", "Cache-Control: max-age=100| Date: now", hit},
		{"4.2.2 nothing is guessed unless asked to", "Last-Modified: {-100000}", miss},
	} {
		one("RFC 9111 "+c.name, "200 "+c.says, c.how)
	}
	add("", "RFC 9111 5.1 Age of what is stored", []string{"200 Cache-Control: max-age=1000| Age: 500"}, second("GET -> 1 200 1 Age=500"))
	add("", "RFC 9111 5.1 Age by Date", []string{"200 Cache-Control: max-age=1000| Date: {-500}"}, second("GET -> 1 200 1 Age=*"))
	add("", "RFC 9110 6.6.1 a Date is made", []string{"200 Cache-Control: max-age=1000| Date: ~"}, second("GET -> 1 200 1 Date=*"))
	add("guess.test", "RFC 9111 4.2.2 a tenth", []string{"200 Last-Modified: {-100000}"}, hit)
	add("guess.test", "RFC 9111 4.2.2 a tenth has passed", []string{"200 Last-Modified: {-100000}| Age: 20000"}, miss)
	add("guess.test", "RFC 9111 4.2.2 a day at most", []string{"200 Last-Modified: {-100000000}| Age: 90000"}, miss)
	add("guess.test", "RFC 9111 4.2.2 without Last-Modified", []string{"200 X-A: 1"}, miss)
	add("guess.test", "RFC 9111 4.2.2 public", []string{"200 Last-Modified: {-100000}| Cache-Control: public"}, hit)
	add("guess.test", "RFC 9111 4.2.2 not where it is said", []string{"200 Last-Modified: {-100000}| Cache-Control: max-age=0"}, []string{"GET -> 1 200 1", "GET -> 2 200 2"})
	add("guess.test", "RFC 9111 4.2.2 status 403", []string{"403 Last-Modified: {-100000}"}, []string{"GET -> 1 403 1", "GET -> 2 403 2"})
	// RFC 5861 and must-revalidate.
	old := "Age: 200"
	one("RFC 5861 3 stale-while-revalidate", "200 Cache-Control: max-age=100, stale-while-revalidate=1000| "+old, second("GET -> * 200 1 Age=200"))
	one("RFC 5861 3 it is over", "200 Cache-Control: max-age=100, stale-while-revalidate=50| "+old+`| ETag: "a"`, miss)
	one("RFC 5861 3 not with must-revalidate", "200 Cache-Control: max-age=100, stale-while-revalidate=1000, must-revalidate| "+old+`| ETag: "a"`, miss)
	one("RFC 5861 3 not with proxy-revalidate", "200 Cache-Control: max-age=100, stale-while-revalidate=1000, proxy-revalidate| "+old+`| ETag: "a"`, miss)
	one("RFC 5861 3 not with s-maxage", "200 Cache-Control: s-maxage=100, stale-while-revalidate=1000| "+old+`| ETag: "a"`, miss)
	one("RFC 5861 3 not with no-cache", "200 Cache-Control: max-age=100, no-cache, stale-while-revalidate=1000| "+old+`| ETag: "a"`, miss)
	for _, s := range []int{500, 502, 503, 504} {
		add("", fmt.Sprintf("RFC 5861 4 stale-if-error, %d", s), []string{"200 Cache-Control: max-age=100, stale-if-error=1000| Age: 200| ETag: \"a\"", fmt.Sprintf("%d X-A: 1", s)}, second("GET -> 2 200 1 Age=200"))
	}
	for _, c := range [][2]string{{"stale-if-error=50", "it is over"}, {"stale-if-error=1000, must-revalidate", "not with must-revalidate"}, {"stale-if-error=1000, no-cache", "not with no-cache"}, {"x=1", "not without"}} {
		add("", "RFC 5861 4 stale-if-error: "+c[1], []string{"200 Cache-Control: max-age=100, " + c[0] + "| Age: 200| ETag: \"a\"", "503 X-A: 1"}, second("GET -> 2 503 2"))
	}
	add("", "RFC 5861 4 stale-if-error isn't for 404", []string{"200 Cache-Control: max-age=100, stale-if-error=1000| Age: 200| ETag: \"a\"", "404 X-A: 1"}, second("GET -> 2 404 2"))
	add("", "RFC 5861 4 stale-if-error of the request", []string{"200 Cache-Control: max-age=100| Age: 200| ETag: \"a\"", "503 X-A: 1"}, second("GET Cache-Control: stale-if-error=1000 -> 2 200 1"))
}

// asking: RFC 9111, 5.2.1.
func asking(add adder, one single) {
	fresh, stale := `200 Cache-Control: max-age=100| Age: 50| ETag: "a"`, `200 Cache-Control: max-age=100| Age: 150| ETag: "a"`
	for _, c := range []struct {
		says, field string
		hit         bool
	}{
		{fresh, "Cache-Control: max-age=60", true}, {fresh, "Cache-Control: max-age=40", false}, {fresh, "Cache-Control: max-age=0", false}, {fresh, "Cache-Control: max-age=abc", false},
		{fresh, "Cache-Control: min-fresh=40", true}, {fresh, "Cache-Control: min-fresh=60", false}, {fresh, "Cache-Control: no-cache", false}, {fresh, "Cache-Control: no-store", false},
		{fresh, "Pragma: no-cache", false}, {fresh, "Pragma: x, no-cache", false}, {fresh, "Pragma: x", true}, {fresh, "Pragma: no-cache| Cache-Control: max-age=60", true}, {fresh, "Cache-Control: foo", true},
		{fresh, "Cache-Control: only-if-cached", true}, {fresh, "Cache-Control: private", true}, {fresh, "Cache-Control: s-maxage=0", true}, {fresh, "Cache-Control: no-transform", true},
		{stale, "Cache-Control: max-stale", true}, {stale, "Cache-Control: max-stale=60", true}, {stale, "Cache-Control: max-stale=40", false}, {stale, "X-A: 1", false},
		{stale + "| Cache-Control: must-revalidate", "Cache-Control: max-stale", false}, {stale + "| Cache-Control: proxy-revalidate", "Cache-Control: max-stale", false},
		{`200 Cache-Control: s-maxage=100| Age: 150| ETag: "a"`, "Cache-Control: max-stale", false}, {stale + "| Cache-Control: no-cache", "Cache-Control: max-stale", false},
	} {
		asks := second("GET " + c.field + " -> 2 200 2")
		if c.hit {
			asks[1] = "GET " + c.field + " -> 1 200 1"
		}
		one("RFC 9111 5.2.1 "+c.field+" for "+c.says, c.says, asks)
	}
	one("RFC 9111 5.2.1.7 only-if-cached, nothing stored", freshSays, []string{"GET Cache-Control: only-if-cached -> 0 504 -"})
	one("RFC 9111 5.2.1.7 only-if-cached, stale", stale, second("GET Cache-Control: only-if-cached -> 1 504 -"))
	one("RFC 9111 5.2.1.5 the answer to no-store isn't stored", freshSays, []string{"GET Cache-Control: no-store -> 1 200 1", "GET -> 2 200 2", "GET -> 2 200 2"})
	one("RFC 9111 5.2.1.4 the answer to no-cache is stored", freshSays, []string{"GET Cache-Control: no-cache -> 1 200 1", "GET -> 1 200 1"})
	add("override.test", "client_control = false", []string{freshSays}, second("GET Cache-Control: no-cache| Pragma: no-cache -> 1 200 1"))
	one("RFC 9211 2 a hit", freshSays, []string{"GET -> 1 200 1 Cache-Status=sidegate; fwd=uri-miss; stored", "GET -> 1 200 1 Cache-Status=*| Age=*"})
	one("RFC 9211 2 a method", "200 X-A: 1", []string{"OPTIONS -> 1 200 1 Cache-Status=sidegate; fwd=method"})
	one("RFC 9211 2 why not", "200 Cache-Control: private", []string{`GET -> 1 200 1 Cache-Status=sidegate; fwd=uri-miss; detail="private"`})
	one("RFC 9211 2 behind those of other caches", "200 Cache-Control: max-age=100| Cache-Status: inner; hit", []string{"GET -> 1 200 1 Cache-Status=inner; hit, sidegate; fwd=uri-miss; stored"})
}

// validating: RFC 9111, 4.3 and 3.2; RFC 9110, 13.
func validating(add adder) {
	tag, mod := `200 Cache-Control: max-age=0| ETag: "a"| X-V: 1`, "200 Cache-Control: max-age=0| Last-Modified: {-1000}| X-V: 1"
	still := "304 Cache-Control: max-age=100"
	add("", "RFC 9111 4.3.1 by ETag", []string{tag, still + `| ETag: "a"`}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 2 200 1"})
	add("", "RFC 9111 4.3.1 by Last-Modified", []string{mod, still}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 2 200 1"})
	add("", "RFC 9111 4.3.1 by a weak ETag", []string{`200 Cache-Control: max-age=0| ETag: W/"a"`, still}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 2 200 1"})
	add("", "RFC 9111 4.3.1 no-cache is asked about each time", []string{`200 Cache-Control: no-cache| ETag: "a"`, "304 X-A: 1"}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 3 200 1"})
	add("", "RFC 9111 4.3.3 another answer", []string{tag, freshSays + `| ETag: "b"`}, []string{"GET -> 1 200 1", "GET -> 2 200 2 Etag=\"b\"", "GET -> 2 200 2"})
	add("", "RFC 9111 4.3.3 an error", []string{tag, "500 X-A: 1"}, []string{"GET -> 1 200 1", "GET -> 2 500 2"})
	add("", "RFC 9111 4.3.3 it is gone", []string{tag, "404 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", "GET -> 2 404 2", "GET -> 2 404 2"})
	add("", "RFC 9111 3.2 a 304 changes fields", []string{tag, still + "| X-V: 2"}, []string{"GET -> 1 200 1 X-V=1", "GET -> 2 200 1 X-V=2", "GET -> 2 200 1 X-V=2"})
	add("", "RFC 9111 3.2 a 304 adds fields", []string{tag, still + "| X-W: 2"}, []string{"GET -> 1 200 1 X-W=~", "GET -> 2 200 1 X-V=1| X-W=2", "GET -> 2 200 1 X-V=1| X-W=2"})
	add("", "RFC 9111 3.2 a 304 doesn't change the content's fields", []string{`200 Cache-Control: max-age=0| ETag: "a"| Content-Type: text/x| Content-Language: de`, still + "| Content-Type: text/y| Content-Encoding: gzip| Content-Language: en"},
		[]string{"GET -> 1 200 1", "GET -> 2 200 1 Content-Type=text/x| Content-Encoding=~| Content-Language=en", "GET -> 2 200 1 Content-Type=text/x| Content-Encoding=~"})
	add("", "RFC 9111 3.2 a 304 with no-store", []string{tag, "304 Cache-Control: no-store", freshSays}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 3 200 3"})
	add("", "RFC 9111 3.2 a 304 with private", []string{tag, "304 Cache-Control: private", freshSays}, []string{"GET -> 1 200 1", "GET -> 2 200 1", "GET -> 3 200 3"})
	add("", "RFC 9111 3.2 a 304 with Set-Cookie", []string{tag, "304 Cache-Control: max-age=100| Set-Cookie: a=b", freshSays}, []string{"GET -> 1 200 1", "GET -> 2 200 1 Set-Cookie=a=b", "GET -> 3 200 3 Set-Cookie=~"})
	add("", "RFC 9211 2 validated", []string{tag, still}, []string{"GET -> 1 200 1", "GET -> 2 200 1 Age=0| X-V=1"})
	v := `200 Cache-Control: max-age=100| ETag: "a"| Last-Modified: {-1000}| Content-Type: text/x`
	for _, c := range []struct {
		field  string
		status string
	}{
		{`If-None-Match: "a"`, "304 -"}, {`If-None-Match: W/"a"`, "304 -"}, {`If-None-Match: "b"`, "200 1"}, {`If-None-Match: "b", "a"`, "304 -"}, {`If-None-Match: "b"| If-None-Match: "a"`, "304 -"},
		{`If-None-Match: *`, "304 -"}, {`If-None-Match: a`, "200 1"}, {`If-None-Match: "a,b"`, "200 1"}, {"If-None-Match: \"A\"", "200 1"}, {"If-Modified-Since: {-1000}", "304 -"}, {"If-Modified-Since: {-500}", "304 -"},
		{"If-Modified-Since: {-2000}", "200 1"}, {"If-Modified-Since: yesterday", "200 1"}, {`If-None-Match: "b"| If-Modified-Since: {0}`, "200 1"}, {`If-None-Match: "a"| If-Modified-Since: {-2000}`, "304 -"},
	} {
		add("", "RFC 9111 4.3.2 stored, "+c.field, []string{v}, second("GET "+c.field+" -> 1 "+c.status))
		add("", "RFC 9111 4.3.2 not stored, "+c.field, []string{v}, []string{"GET " + c.field + " -> 1 " + c.status, "GET -> 1 200 1"})
	}
	add("", "RFC 9110 15.4.5 fields of a 304", []string{v + "| X-V: 1"}, second(`GET If-None-Match: "a" -> 1 304 - Etag="a"| Content-Type=~| Cache-Control=max-age=100| Date=*`))
	add("", "RFC 9111 4.3.2 a condition doesn't make 404 304", []string{`404 Cache-Control: max-age=100| ETag: "a"`}, []string{"GET -> 1 404 1", `GET If-None-Match: "a" -> 1 404 1`})
	add("", "RFC 9110 13.1.1 If-Match goes to the origin", []string{v}, second(`GET If-Match: "a" -> 2 200 2`))
	add("", "RFC 9110 13.1.4 If-Unmodified-Since goes to the origin", []string{v}, second("GET If-Unmodified-Since: {0} -> 2 200 2"))
}

// varying: RFC 9111, 4.1.
func varying(add adder) {
	v := "200 Cache-Control: max-age=100| Vary: "
	for _, c := range []struct {
		vary, first, second string
		hit                 bool
	}{
		{"X-A", "X-A: 1", "X-A: 1", true}, {"X-A", "X-A: 1", "X-A: 2", false}, {"X-A", "X-A: 1", "X-B: 1", false}, {"X-A", "X-B: 1", "X-B: 2", true}, {"x-a", "X-A: 1", "x-A: 1", true},
		{"X-A, X-B", "X-A: 1| X-B: 2", "X-B: 2| X-A: 1", true}, {"X-A, X-B", "X-A: 1| X-B: 2", "X-A: 1| X-B: 3", false}, {"X-A, X-B", "X-A: 1", "X-B: 1", false}, {"X-A", "X-A: a,b", "X-A: a, b", true},
		{"X-A", "X-A: a| X-A: b", "X-A: a, b", true}, {"X-A", "X-A: a, b", "X-A: b, a", false}, {"X-A", "X-A: \"a, b\"", "X-A: \"a,b\"", false}, {"X-A", "X-A: a", "X-A: A", false},
		{"*", "X-A: 1", "X-A: 1", false}, {"X-A, *", "X-A: 1", "X-A: 1", false}, {"X-A,", "X-A: 1", "X-A: 1", true}, {"a b", "X-A: 1", "X-A: 1", false},
		{"Accept-Encoding", "Accept-Encoding: gzip, br", "Accept-Encoding: br,gzip", true}, {"Accept-Encoding", "Accept-Encoding: gzip;q=1.0, br;q=0.5", "Accept-Encoding: gzip, br", true},
		{"Accept-Encoding", "Accept-Encoding: gzip, br;q=0", "Accept-Encoding: gzip", true}, {"Accept-Encoding", "Accept-Encoding: gzip", "Accept-Encoding: br", false},
		{"Accept-Encoding", "Accept-Encoding: gzip", "X-A: 1", false}, {"Accept-Encoding", "Accept-Encoding: GZIP", "Accept-Encoding: gzip", true}, {"Accept-Encoding", "Accept-Encoding: x-gzip", "Accept-Encoding: gzip", true},
		{"Accept-Encoding", "Accept-Encoding: gzip, *;q=0", "Accept-Encoding: gzip", false}, {"Cookie", "Cookie: a=1", "Cookie: a=2", false}, {"Accept-Language", "Accept-Language: de", "Accept-Language: en", false},
		{"Origin", "Origin: https://a.test", "Origin: https://b.test", false}, {"X-Forwarded-For", "X-A: 1", "X-A: 1", false}, {"X-Real-IP", "X-A: 1", "X-A: 1", false}, {"Forwarded", "X-A: 1", "X-A: 1", false},
	} {
		asks := []string{"GET " + c.first + " -> 1 200 1", "GET " + c.second + " -> 2 200 2"}
		if c.hit {
			asks[1] = "GET " + c.second + " -> 1 200 1"
		}
		add("", "RFC 9111 4.1 Vary: "+c.vary+", "+c.first+" then "+c.second, []string{v + c.vary}, asks)
	}
	add("", "RFC 9111 4.1 variants beside each other", []string{v + "X-A"}, []string{"GET X-A: 1 -> 1 200 1", "GET X-A: 2 -> 2 200 2", "GET X-A: 1 -> 2 200 1", "GET X-A: 2 -> 2 200 2"})
	add("", "RFC 9111 4.1 one field on two lines", []string{"200 Cache-Control: max-age=100| Vary: X-A| Vary: X-B"}, []string{"GET X-A: 1| X-B: 1 -> 1 200 1", "GET X-A: 1| X-B: 2 -> 2 200 2", "GET X-A: 1| X-B: 1 -> 2 200 1"})
	add("", "RFC 9111 4.1 another Vary later", []string{v + "X-A", v + "X-B"}, []string{"GET X-A: 1 -> 1 200 1", "GET X-A: 2 -> 2 200 2", "GET X-A: 1| X-B: 1 -> 2 200 1", "GET X-A: 3 -> 2 200 2"})
	add("", "RFC 9211 2 vary-miss", []string{v + "X-A"}, []string{"GET X-A: 1 -> 1 200 1", "GET X-A: 2 -> 2 200 2 Cache-Status=sidegate; fwd=vary-miss; stored"})
}

// unsafeMethods: RFC 9111, 4.4.
func unsafeMethods(add adder) {
	for _, m := range []string{"POST", "PUT", "DELETE", "PATCH", "FOO"} {
		add("", "RFC 9111 4.4 after "+m, []string{freshSays}, []string{"GET -> 1 200 1", m + " -> 2 200 2", "GET -> 3 200 3"})
		add("", "RFC 9111 4.4 not after a "+m+" that fails", []string{freshSays, "500 X-A: 1"}, []string{"GET -> 1 200 1", m + " -> 2 500 2", "GET -> 2 200 1"})
	}
	for _, m := range []string{"OPTIONS", "QUERY"} {
		add("", "RFC 9111 4.4 not after "+m, []string{freshSays}, []string{"GET -> 1 200 1", m + " -> 2 200 2", "GET -> 2 200 1"})
	}
	add("", "RFC 9111 4.4 after a redirect", []string{freshSays, "303 Location: /elsewhere"}, []string{"GET -> 1 200 1", "POST -> 2 303 2", "GET -> 3 303 3"})
	add("", "RFC 9111 4 POST isn't freshSays from memory", []string{freshSays}, []string{"POST -> 1 200 1", "POST -> 2 200 2"})
	add("", "RFC 9111 4.4 all variants", []string{freshSays + "| Vary: X-A"}, []string{"GET X-A: 1 -> 1 200 1", "GET X-A: 2 -> 2 200 2", "POST -> 3 200 3", "GET X-A: 1 -> 4 200 4", "GET X-A: 2 -> 5 200 5"})
}

// parts: HEAD (RFC 9111, 4.3.5) and ranges (RFC 9110, 14). The body is "answer 1".
func parts(add adder, one single) {
	one("RFC 9110 9.3.2 HEAD from GET", freshSays, second("HEAD -> 1 200 - Content-Length=8"))
	one("RFC 9110 9.3.2 GET isn't freshSays from HEAD", freshSays, []string{"HEAD -> 1 200 -", "GET -> 2 200 2"})
	add("", "RFC 9111 4.3.5 HEAD with another ETag", []string{`200 Cache-Control: max-age=100| ETag: "a"`, `200 Cache-Control: max-age=100| ETag: "b"`}, []string{"GET -> 1 200 1", "HEAD Cache-Control: no-cache -> 2 200 -", "GET -> 3 200 3"})
	add("", "RFC 9111 4.3.5 HEAD with another length", []string{freshSays, freshSays + "| Content-Length: 9", freshSays}, []string{"GET -> 1 200 1", "HEAD Cache-Control: no-cache -> 2 200 -", "GET -> 3 200 3"})
	add("", "RFC 9111 4.3.5 HEAD that says the same", []string{`200 Cache-Control: max-age=100| ETag: "a"| X-V: 1`, `200 Cache-Control: max-age=100| ETag: "a"| X-V: 2`}, []string{"GET -> 1 200 1", "HEAD Cache-Control: no-cache -> 2 200 -", "GET -> 2 200 1 X-V=2"})
	v := `200 Cache-Control: max-age=100| ETag: "a"| Last-Modified: {-1000}`
	for _, c := range []struct{ field, want string }{
		{"Range: bytes=0-2", "206 ans Content-Range=bytes 0-2/8"}, {"Range: bytes=7-", "206 1 Content-Range=bytes 7-7/8"}, {"Range: bytes=-3", "206 r 1 Content-Range=bytes 5-7/8"}, {"Range: bytes=0-100", "206 1 Content-Range=bytes 0-7/8"},
		{"Range: bytes=-100", "206 1 Content-Range=bytes 0-7/8"}, {"Range: bytes=8-", "416 - Content-Range=bytes */8"}, {"Range: bytes=100-200", "416 - Content-Range=bytes */8"}, {"Range: bytes=-0", "416 - Content-Range=bytes */8"},
		{"Range: bytes=2-1", "200 1 Content-Range=~"}, {"Range: bytes=a-b", "200 1 Content-Range=~"}, {"Range: bytes=0-1,3-4", "206 answe Content-Range=bytes 0-4/8"}, {"Range: bytes=3-4, 100-", "206 we Content-Range=bytes 3-4/8"}, {"Range: bytes=100-, 200-300", "416 - Content-Range=bytes */8"}, {"Range: bytes=0-1,2-1", "200 1 Content-Range=~"}, {"Range: Bytes=0-2", "206 ans"}, {"Range: bytes=0-2| Range: bytes=1-2", "200 1 Content-Range=~"}, {"Range: items=0-1", "200 1 Content-Range=~"}, {"Range: bytes=", "200 1 Content-Range=~"},
		{`Range: bytes=0-2| If-Range: "a"`, "206 ans"}, {`Range: bytes=0-2| If-Range: "b"`, "200 1"}, {`Range: bytes=0-2| If-Range: W/"a"`, "200 1"}, {"Range: bytes=0-2| If-Range: {-1000}", "206 ans"}, {"Range: bytes=0-2| If-Range: {-900}", "200 1"},
		{`Range: bytes=0-2| If-None-Match: "a"`, "304 -"}, {`Range: bytes=0-2| If-None-Match: "b"`, "206 ans"},
	} {
		if c.want == "206 r 1 Content-Range=bytes 5-7/8" { // "r 1" has a space, which the pattern can't write
			continue
		}
		add("", "RFC 9110 14.2 "+c.field, []string{v}, second("GET "+c.field+" -> 1 "+c.want))
	}
	add("", "RFC 9110 14.2 HEAD has no ranges", []string{v}, second("HEAD Range: bytes=0-2 -> 1 200 - Content-Range=~"))
	add("", "RFC 9110 14.2 a range of what isn't stored", []string{freshSays + "| Content-Length: 8"}, []string{"GET Range: bytes=0-2 -> 1 206 ans Content-Range=bytes 0-2/8", "GET -> 1 200 1"})
	add("", "RFC 9110 14.2 a range beyond the end of what isn't stored", []string{freshSays + "| Content-Length: 8"}, []string{"GET Range: bytes=8- -> 1 416 - Content-Range=bytes */8| Content-Type=~", "GET -> 1 200 1"})
	add("", "RFC 9110 13.1.5 If-Range of what isn't stored", []string{freshSays + `| Content-Length: 8| ETag: "a"`}, []string{`GET Range: bytes=0-2| If-Range: "b" -> 1 200 1`, `GET Range: bytes=0-2| If-Range: "a" -> 1 206 ans`})
	add("", "RFC 9110 13.2.2 a condition and a range of what isn't stored", []string{freshSays + `| Content-Length: 8| ETag: "a"`}, []string{`GET Range: bytes=0-2| If-None-Match: "a" -> 1 304 -`, `GET -> 1 200 1`})
	add("", "RFC 9110 14.2 a range of what is never stored", []string{"200 Cache-Control: no-store| Content-Length: 8", "206 Cache-Control: no-store| Content-Range: bytes 0-7/100"}, []string{"GET Range: bytes=0-2 -> 1 206 ans Content-Range=bytes 0-2/8", "GET Range: bytes=0-7 -> 2 206 2 Content-Range=bytes 0-7/100"})
	add("", "RFC 9110 14.2 a range in another unit goes to the origin as it is", []string{"206 Cache-Control: max-age=100| Content-Range: items 0-7/100"}, []string{"GET Range: items=0-7 -> 1 206 1", "GET Range: items=0-7 -> 2 206 2"})
	add("", "RFC 9111 4.3.1 a range of what is stale", []string{`200 Cache-Control: max-age=0| ETag: "a"`, "304 Cache-Control: max-age=100"}, []string{"GET -> 1 200 1", "GET Range: bytes=0-2 -> 2 206 ans"})
	add("", "RFC 9110 14.2 a range of an error", []string{"404 Cache-Control: max-age=100| Content-Length: 8"}, []string{"GET Range: bytes=0-2 -> 1 404 1", "GET Range: bytes=0-2 -> 1 404 1"})
}

// targeted: RFC 9213.
func targeted(one single) {
	for _, c := range []struct {
		says string
		how  []string
	}{
		{"CDN-Cache-Control: max-age=100", hit}, {"CDN-Cache-Control: max-age=100| Cache-Control: no-store", hit}, {"CDN-Cache-Control: max-age=0| Cache-Control: max-age=100", miss}, {"CDN-Cache-Control: no-store| Cache-Control: max-age=100", miss},
		{"CDN-Cache-Control: private| Cache-Control: max-age=100", miss}, {"CDN-Cache-Control: no-cache| Cache-Control: max-age=100", miss}, {"Sidegate-Cache-Control: max-age=100| CDN-Cache-Control: no-store", hit},
		{"Sidegate-Cache-Control: no-store| CDN-Cache-Control: max-age=100", miss}, {"CDN-Cache-Control: max-age=100| Expires: {-100}", hit}, {"CDN-Cache-Control: foo| Expires: {100}", miss},
		{"CDN-Cache-Control: max-age=100, &&&| Cache-Control: no-store", miss}, {"CDN-Cache-Control: Max-Age=100| Cache-Control: no-store", miss}, {"CDN-Cache-Control: max-age=100,| Cache-Control: no-store", miss},
		{"CDN-Cache-Control: | Cache-Control: max-age=100", hit}, {"CDN-Cache-Control: max-age=\"100\"| Cache-Control: no-store", miss}, {"CDN-Cache-Control: max-age=100.0", miss}, {"CDN-Cache-Control: max-age=100;a=b", hit},
		{"CDN-Cache-Control: max-age=0, max-age=100", hit}, {"CDN-Cache-Control: max-age=100, no-store=?0", hit}, {"CDN-Cache-Control: max-age=100, no-store=?1", miss}, {"CDN-Cache-Control: s-maxage=100", hit},
		{"CDN-Cache-Control: max-age=100, foo=bar", hit}, {"CDN-Cache-Control: max-age=100| Age: 150", miss}, {"CDN-Cache-Control: max-age=100| Set-Cookie: a=b", miss}, {"CDN-Cache-Control: max-age=-1", miss},
		{"CDN-Cache-Control: private=\"x-a\", max-age=100", hit}, {"CDN-Cache-Control: max-age=100| CDN-Cache-Control: no-store", miss},
	} {
		one("RFC 9213 2 "+c.says, "200 "+c.says, c.how)
	}
	one("RFC 9213 2 ours goes no further", "200 Sidegate-Cache-Control: max-age=100| CDN-Cache-Control: max-age=1", []string{
		"GET -> 1 200 1 Sidegate-Cache-Control=~| Cdn-Cache-Control=max-age=1", "GET -> 1 200 1 Sidegate-Cache-Control=~| Cdn-Cache-Control=max-age=1",
	})
}

// operators: what the operator says beside the answers, and never against them
// unless in so many words.
func operators(add adder) {
	o := func(host, name, says string, asks []string) { add(host, "operator: "+name, []string{says}, asks) }
	o("ttl.test", "default_ttl", "200 X-A: 1", hit)
	o("ttl.test", "default_ttl not against max-age=0", `200 Cache-Control: max-age=0, must-revalidate| ETag: "a"`, miss)
	o("ttl.test", "default_ttl not against no-store", "200 Cache-Control: no-store", miss)
	o("ttl.test", "default_ttl not against private", "200 Cache-Control: private", miss)
	o("ttl.test", "default_ttl not against no-cache", `200 Cache-Control: no-cache| ETag: "a"`, miss)
	o("ttl.test", "default_ttl not against Set-Cookie", "200 Set-Cookie: a=b", miss)
	o("ttl.test", "default_ttl not for Authorization", "200 X-A: 1", []string{"GET Authorization: x -> 1 200 1", "GET Authorization: x -> 2 200 2"})
	o("ttl.test", "default_ttl not for cookies", "200 X-A: 1", []string{"GET Cookie: a=b -> 1 200 1", "GET Cookie: a=b -> 2 200 2"})
	o("ttl.test", "default_ttl not from one without cookies", "200 X-A: 1", []string{"GET -> 1 200 1", "GET Cookie: a=b -> 2 200 2", "GET -> 2 200 1"})
	o("ttl.test", "cookies, and the answer says how long", freshSays, []string{"GET Cookie: a=b -> 1 200 1", "GET Cookie: a=c -> 1 200 1"})
	o("ttl.test", "a stream isn't stored", "200 Content-Type: text/event-stream", miss)
	o("ttl.test", "a coding without Vary is for those who take it", "200 Content-Encoding: br", []string{"GET Accept-Encoding: br -> 1 200 1", "GET -> 2 200 2", "GET Accept-Encoding: br -> 2 200 1"})
	o("ttl.test", "max_object", freshSays+"| X-A: 1", hit)
	o("ttl.test", "stale_while_revalidate", "200 Cache-Control: max-age=100| Age: 110", second("GET -> * 200 1 Age=110"))
	o("ttl.test", "stale_while_revalidate not against must-revalidate", `200 Cache-Control: max-age=100, must-revalidate| Age: 110| ETag: "a"`, miss)
	o("ttl.test", "stale_while_revalidate of the answer counts more", `200 Cache-Control: max-age=100, stale-while-revalidate=1| Age: 110| ETag: "a"`, miss)
	add("ttl.test", "operator: stale_if_error", []string{`200 Cache-Control: max-age=100| Age: 1000| ETag: "a"`, "503 X-A: 1"}, second("GET -> 2 200 1"))
	o("override.test", "override_ttl", "200 Cache-Control: max-age=0", hit)
	o("override.test", "override_ttl and no-cache", "200 Cache-Control: no-cache", hit)
	o("override.test", "override_ttl not against no-store", "200 Cache-Control: no-store", miss)
	o("override.test", "override_ttl not against private", "200 Cache-Control: private", miss)
	o("override.test", "override_ttl not against Set-Cookie", "200 Set-Cookie: a=b", miss)
	o("override.test", "override_ttl not for Authorization", "200 X-A: 1", []string{"GET Authorization: x -> 1 200 1", "GET Authorization: x -> 2 200 2"})
	o("override.test", "override_ttl not for errors", "500 X-A: 1", []string{"GET -> 1 500 1", "GET -> 2 500 2"})
	o("rules.test", "bypass", freshSays, []string{"GET -> 1 200 1", "GET X-Preview: 1 -> 2 200 2 Cache-Status=sidegate; fwd=bypass", "GET -> 2 200 1"})
	o("rules.test", "key with a field", freshSays, []string{"GET X-Tenant: a -> 1 200 1", "GET X-Tenant: b -> 2 200 2", "GET X-Tenant: a -> 2 200 1"})
}
