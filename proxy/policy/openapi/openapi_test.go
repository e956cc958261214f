package openapi

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// files writes files into a folder, and returns the path of the first.
func files(t testing.TB, list ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(list); i += 2 {
		path := filepath.Join(dir, list[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(list[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, list[0])
}

// read reads a description: its paths, behind what all have.
func read(t testing.TB, paths string) *API {
	t.Helper()
	a, err := Read(nil, files(t, "api.yaml", "openapi: 3.1.0\ninfo: {title: t, version: '1'}\n"+paths))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// checked is what a check of a request's head finds, "where what" each.
func checked(t testing.TB, a *API, strict bool, line string, fields ...string) []string {
	t.Helper()
	x := policytest.Exchange(t, line, fields...)
	c := NewCheck()
	c.Formats, c.Strict = true, strict
	item := a.Find(c, x.Target.Path)
	if item == nil {
		return []string{"no path"}
	}
	o := item.Operation(x.Method)
	if o == nil {
		return []string{"no method, of " + item.Allow}
	}
	o.Parameters(a, c, x)
	return texts(c.Found)
}

func texts(list []exchange.Finding) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Where+" "+f.What)
	}
	return out
}

func TestFind(t *testing.T) {
	a := read(t, `
paths:
  /: {get: {}}
  /orders: {get: {}, post: {}}
  /orders/: {get: {}}
  /orders/mine: {get: {}}
  /orders/{id}: {get: {parameters: [{name: id, in: path, required: true, schema: {}}]}}
  /orders/{id}/items/{n}: {head: {parameters: [{$ref: '#/components/parameters/id'}, {name: n, in: path, required: true, schema: {}}]}}
  /orders/mine/items: {get: {}}
  /orders/{id}/items: {put: {parameters: [{$ref: '#/components/parameters/id'}]}}
  /files/{name}.{ext}: {get: {parameters: [{name: name, in: path, required: true, schema: {enum: [a]}}, {name: ext, in: path, required: true, schema: {enum: [b.c]}}]}}
  /files/{name}.json: {put: {parameters: [{name: name, in: path, required: true, schema: {}}]}}
  /caf%C3%A9/ü b: {get: {}}
components: {parameters: {id: {name: id, in: path, required: true, schema: {}}}}
`)
	for line, want := range map[string]string{
		"GET http://x/":                      "/",
		"GET http://x/orders":                "/orders",
		"GET http://x/orders/":               "/orders/",
		"GET http://x//orders":               "/orders",
		"GET http://x/orders/mine":           "/orders/mine",
		"GET http://x/orders/%6dine":         "/orders/mine",
		"GET http://x/orders/7":              "/orders/{id}",
		"GET http://x/orders/7/":             "no path",
		"GET http://x/orders/mine/items":     "/orders/mine/items",
		"PUT http://x/orders/yours/items":    "/orders/{id}/items",
		"HEAD http://x/orders/mine/items/1":  "/orders/{id}/items/{n}",
		"HEAD http://x/orders":               "/orders",
		"DELETE http://x/orders":             "no method, of GET, HEAD, POST",
		"GET http://x/orders/a/items/b":      "no method, of HEAD",
		"GET http://x/nothing":               "no path",
		"GET http://x/files/a.b.c":           "/files/{name}.{ext}",
		"GET http://x/files/a":               "no path",
		"GET http://x/files/.b":              "no path",
		"PUT http://x/files/a.json":          "/files/{name}.json",
		"GET http://x/caf%c3%a9/%C3%BC%20b":  "/caf%C3%A9/ü b",
		"GET http://x/Orders":                "no path",
		"GET http://x/orders/a%20b":          "/orders/{id}",
		"GET http://x/orders/7/../../orders": "/orders",
	} {
		x := policytest.Exchange(t, line)
		c := NewCheck()
		got := "no path"
		if item := a.Find(c, x.Target.Path); item != nil {
			got = item.Path
			if o := item.Operation(x.Method); o == nil {
				got = "no method, of " + item.Allow
			} else if o.Parameters(a, c, x); len(c.Found) > 0 {
				got = strings.Join(texts(c.Found), ", ")
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestParameters(t *testing.T) {
	a := read(t, `
paths:
  /p/{id}:
    parameters:
    - {name: id, in: path, required: true, schema: {type: integer, minimum: 1}}
    - {name: X-Trace, in: header, schema: {type: string, format: uuid}}
    get:
      parameters:
      - {name: limit, in: query, schema: {type: integer, maximum: 100}}
      - {name: q, in: query, required: true, schema: {type: string, minLength: 1}}
      - {name: tags, in: query, schema: {type: array, items: {type: string, pattern: '^[a-z, ]+$'}, maxItems: 3}}
      - {name: ids, in: query, explode: false, schema: {type: array, items: {type: integer}}}
      - {name: maybe, in: query, explode: false, schema: {type: [array, 'null'], items: {type: integer}}}
      - {name: sp, in: query, style: spaceDelimited, schema: {type: array, items: {type: integer}}}
      - {name: pi, in: query, style: pipeDelimited, schema: {type: array, items: {type: integer}}}
      - {name: filter, in: query, style: deepObject, schema: {type: object, properties: {min: {type: integer}, in: {type: array, items: {type: integer}}}, additionalProperties: false}}
      - {name: point, in: query, schema: {type: object, properties: {lat: {type: number}, lon: {type: number}}, required: [lat, lon]}}
      - {name: range, in: query, explode: false, schema: {type: object, properties: {from: {type: integer}, to: {type: integer}}, additionalProperties: false}}
      - {name: sort, in: query, schema: {oneOf: [{enum: [up, down]}, {type: array, items: {enum: [a, b]}}]}}
      - {name: json, in: query, content: {application/json: {schema: {type: object, required: [a]}}}}
      - {name: flag, in: query, allowEmptyValue: true, schema: {type: boolean}}
      - {name: any, in: query, schema: {}}
      - {name: X-List, in: header, schema: {type: array, items: {type: integer}}}
      - {name: X-Map, in: header, explode: true, schema: {type: object, properties: {a: {type: integer}}}}
      - {name: session, in: cookie, schema: {type: string, maxLength: 4}}
      - {name: Accept, in: header, required: true, schema: {type: integer}}
      - {name: id, in: path, required: true, schema: {type: integer, maximum: 9}}
components: {securitySchemes: {k: {type: apiKey, in: query, name: api_key}}}
`)
	const base = "GET http://x/p/5?q=x"
	for _, tt := range []struct {
		name, line string
		fields     []string
		want       []string
	}{
		{"right", base, nil, nil},
		{"HEAD", "HEAD http://x/p/5?q=x", nil, nil},
		{"missing", "GET http://x/p/5", nil, []string{"query.q is required"}},
		{"empty", "GET http://x/p/5?q=", nil, []string{"query.q has to have at least 1 characters"}},
		{"path", "GET http://x/p/x?q=x", nil, []string{"path.id has to be integer"}},
		{"path, overridden", "GET http://x/p/10?q=x", nil, []string{"path.id has to be at most 9"}},
		{"path, no more than overridden", "GET http://x/p/0?q=x", nil, nil},
		{"too much", base + "&limit=101", nil, []string{"query.limit has to be at most 100"}},
		{"not a number", base + "&limit=1%30", nil, nil},
		{"twice", base + "&limit=1&limit=2", nil, []string{"query.limit stands there more than once"}},
		{"escaped name", base + "&%6cimit=101", nil, []string{"query.limit has to be at most 100"}},
		{"broken escape", base + "&limit=%zz", nil, []string{"query.limit isn't text: its escapes or its UTF-8 are broken"}},
		{"not UTF-8", "GET http://x/p/5?q=%ff", nil, []string{"query.q isn't text: its escapes or its UTF-8 are broken"}},
		{"list", base + "&tags=a&tags=b,+c", nil, nil},
		{"list with a bad item", base + "&tags=a&tags=B", nil, []string{"query.tags/1 doesn't match the pattern ^[a-z, ]+$"}},
		{"list too long", base + "&tags=a&tags=a&tags=a&tags=a", nil, []string{"query.tags has to have at most 3 items"}},
		{"commas", base + "&ids=1,2,3", nil, nil},
		{"commas, bad", base + "&ids=1,,3", nil, []string{"query.ids/1 has to be integer"}},
		{"escaped comma", base + "&ids=1%2C2", nil, []string{"query.ids/0 has to be integer"}},
		{"list twice", base + "&ids=1&ids=2", nil, []string{"query.ids stands there more than once"}},
		{"list or null", base + "&maybe=1,2", nil, nil},
		{"list or null, bad", base + "&maybe=1,x", nil, []string{"query.maybe/1 has to be integer"}},
		{"spaces", base + "&sp=1%202+3", nil, nil},
		{"spaces, bad", base + "&sp=1,2", nil, []string{"query.sp/0 has to be integer"}},
		{"pipes", base + "&pi=1|2%7C3", nil, nil},
		{"deep", base + "&filter[min]=1&filter[in]=1&filter%5Bin%5D=2", nil, nil},
		{"deep, bad", base + "&filter[min]=x", nil, []string{"query.filter/min has to be integer"}},
		{"deep, unknown", base + "&filter[max]=1", nil, []string{"query.filter/max isn't allowed here"}},
		{"deep, twice", base + "&filter[min]=1&filter[min]=2", nil, []string{"query.filter/min stands there more than once"}},
		{"too deep", base + "&filter[a][b]=1", nil, []string{"query.filter isn't of the form filter[name]=value"}},
		{"exploded object", base + "&lat=1.5&lon=2", nil, nil},
		{"exploded object, incomplete", base + "&lat=1.5", nil, []string{"query.point/lon is required"}},
		{"object", base + "&range=from,1,to,2", nil, nil},
		{"object, bad", base + "&range=from,x", nil, []string{"query.range/from has to be integer"}},
		{"object, odd", base + "&range=from", nil, []string{"query.range isn't a list of names and values"}},
		{"one or many, one", base + "&sort=up", nil, nil},
		{"one or many, list of one", base + "&sort=a", nil, nil},
		{"one or many, many", base + "&sort=a&sort=b", nil, nil},
		{"one or many, bad", base + "&sort=a&sort=up", nil, []string{`query.sort/1 has to be one of "a", "b"`}},
		{"JSON", base + "&json=%7B%22a%22:1%7D", nil, nil},
		{"JSON, bad", base + "&json=%7B%7D", nil, []string{"query.json/a is required"}},
		{"JSON, broken", base + "&json=%7B", nil, []string{"query.json isn't JSON: a name is missing, at byte 1"}},
		{"empty flag", base + "&flag", nil, nil},
		{"flag", base + "&flag=maybe", nil, []string{"query.flag has to be boolean"}},
		{"anything", base + "&any=1,2", nil, nil},
		{"header", base, []string{"x-trace: nope"}, []string{"header.X-Trace isn't of the format uuid"}},
		{"header twice", base, []string{"X-Trace: f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "X-Trace: f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}, []string{"header.X-Trace stands there more than once"}},
		{"header list", base, []string{"X-List: 1, 2", "X-List: 3"}, nil},
		{"header list, bad", base, []string{"X-List: 1, x"}, []string{"header.X-List/1 has to be integer"}},
		{"header map", base, []string{"X-Map: a=1,b=2"}, nil},
		{"header map, bad", base, []string{"X-Map: a=x"}, []string{"header.X-Map/a has to be integer"}},
		{"cookie", base, []string{"Cookie: a=1; session=abcd"}, nil},
		{"cookie, bad", base, []string{"Cookie: a=1; session=abcde"}, []string{"cookie.session has to have at most 4 characters"}},
		{"cookie twice", base, []string{"Cookie: session=a; session=b"}, []string{"cookie.session stands there more than once"}},
		{"key", base + "&api_key=1", nil, nil},
		{"several", "GET http://x/p/x?limit=x", nil, []string{"query.limit has to be integer", "query.q is required", "path.id has to be integer"}},
		{"unknown", base + "&nope=1", nil, []string{"query.nope isn't a parameter here"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, checked(t, a, true, tt.line, tt.fields...)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tt.line, diff)
			}
		})
	}
	if got := checked(t, a, false, base+"&nope=1"); got != nil {
		t.Errorf("an unknown parameter, not strict: %v", got)
	}
	if got := checked(t, a, false, base+strings.Repeat("&a", 10_001)); len(got) == 0 || got[0] != "query has too many parameters" {
		t.Errorf("10,001 parameters: %v", got)
	}
}

// body is what a check of a request's body finds.
func bodyOf(t testing.TB, a *API, contentType, text string, fields ...string) []string {
	t.Helper()
	if contentType != "" {
		fields = append(fields, "Content-Type: "+contentType)
	}
	x := policytest.Exchange(t, "POST http://x/b", fields...)
	c := NewCheck()
	c.Formats = true
	content, verdict := a.Find(c, "/b").Operation("POST").Content(x, text != "")
	if verdict != Readable {
		return []string{verdict.String()}
	}
	c.Body(content, text)
	return texts(c.Found)
}

func TestBodies(t *testing.T) {
	a := read(t, `
paths:
  /b:
    post:
      requestBody:
        required: true
        content:
          application/json: {schema: {type: object, required: [n], properties: {n: {type: integer}}}}
          application/vnd.own+json: {}
          application/vnd.own+json; v=2: {schema: {type: array}}
          application/x-www-form-urlencoded:
            schema: {type: object, required: [n], additionalProperties: false, properties: {n: {type: integer}, t: {type: array, items: {type: string}}, o: {type: object, required: [a]}, s: {type: string}}}
          multipart/form-data:
            schema: {type: object, required: [n], properties: {n: {type: integer}, f: {type: string, contentMediaType: image/png}, o: {type: object, required: [a]}, l: {type: array, items: {type: string}}}}
            encoding: {f: {contentType: 'image/png, image/jpeg'}}
          text/csv: {schema: {type: string, maxLength: 5}}
          text/plain: {}
          image/*: {schema: {type: string, format: binary}}
  /none: {post: {}}
`)
	part := func(list ...string) string {
		var b strings.Builder
		for _, p := range list {
			b.WriteString("--B\r\nContent-Disposition: form-data; " + p + "\r\n")
		}
		return b.String() + "--B--\r\n"
	}
	const form, parts = "application/x-www-form-urlencoded", "multipart/form-data; boundary=B"
	for _, tt := range []struct {
		name, contentType, text string
		fields                  []string
		want                    []string
	}{
		{"JSON", "application/json", `{"n":1}`, nil, nil},
		{"JSON in UTF-8", "Application/JSON; charset=UTF-8", `{"n":1}`, nil, nil},
		{"JSON in UTF-16", "application/json; charset=utf-16", `{"n":1}`, nil, []string{"the operation takes no body of such a media type"}},
		{"JSON, wrong", "application/json", `{"n":"x"}`, nil, []string{"body/n has to be integer"}},
		{"JSON, broken", "application/json", `{"n":1,}`, nil, []string{"body isn't JSON: a name is missing, at byte 7"}},
		{"JSON, twice", "application/json", `{"n":1,"n":"x"}`, nil, []string{"body isn't JSON: an object has a name twice, at byte 15"}},
		{"compressed", "application/json", `x`, []string{"Content-Encoding: gzip"}, []string{"the body is compressed, and can't be checked"}},
		{"identity", "application/json", `{"n":1}`, []string{"Content-Encoding: identity"}, nil},
		{"JSON without a schema", "application/vnd.own+json", `[1]`, nil, nil},
		{"JSON without a schema, broken", "application/vnd.own+json", `[1`, nil, []string{"body isn't JSON: it ends too early, at byte 2"}},
		{"JSON of a version", "application/vnd.own+json; V=2", `{}`, nil, []string{"body has to be array"}},
		{"JSON of another version", "application/vnd.own+json; v=3", `{}`, nil, nil},
		{"form", form, "n=1&t=a&t=b&s=x+y&o=%7B%22a%22%3A1%7D", nil, nil},
		{"form, wrong", form, "n=x", nil, []string{"body/n has to be integer"}},
		{"form, missing", form, "s=1", nil, []string{"body/n is required"}},
		{"form, unknown", form, "n=1&u=1", nil, []string{"body/u isn't allowed here"}},
		{"form, twice", form, "n=1&n=2", nil, []string{"body/n stands there more than once"}},
		{"form, object", form, "n=1&o=%7B%7D", nil, []string{"body/o/a is required"}},
		{"form, broken object", form, "n=1&o=x", nil, []string{"body/o isn't JSON: a value is missing, at byte 0"}},
		{"form, broken escape", form, "n=%1", nil, []string{"body isn't text: its escapes or its UTF-8 are broken"}},
		{"form, too many", form, strings.Repeat("a&", 10_001), nil, []string{"body has too many fields"}},
		{"parts", parts, part("name=n\r\n\r\n1", "name=o\r\nContent-Type: application/json\r\n\r\n{\"a\":1}", "name=l\r\n\r\na", "name=l\r\n\r\nb"), nil, nil},
		{"parts, wrong", parts, part("name=n\r\n\r\nx"), nil, []string{"body/n has to be integer"}},
		{"parts, a file", parts, part("name=n\r\n\r\n1", "name=f; filename=a.png\r\nContent-Type: image/png\r\n\r\n\xff\xfe"), nil, nil},
		{"parts, a file of a wrong type", parts, part("name=n\r\n\r\n1", "name=f; filename=a\r\nContent-Type: text/html\r\n\r\nx"), nil, []string{"body/f has to be of the type image/png, image/jpeg"}},
		{"parts, an object of a wrong type", parts, part("name=n\r\n\r\n1", "name=o\r\nContent-Type: text/plain\r\n\r\n{\"a\":1}"), nil, []string{"body/o has to be of the type application/json"}},
		{"parts, coded", parts, part("name=n\r\nContent-Transfer-Encoding: base64\r\n\r\nMQ=="), nil, []string{"body/n has a Content-Transfer-Encoding (RFC 7578, 4.7)"}},
		{"parts, no UTF-8", parts, part("name=n\r\n\r\n\xff"), nil, []string{"body/n isn't UTF-8"}},
		{"parts, no name", parts, part("\r\n\r\n1"), nil, []string{"body has a part that is broken or lacks its one name"}},
		{"parts, two names", parts, part("name=n\r\nContent-Disposition: form-data; name=u\r\n\r\n1"), nil, []string{"body has a part that is broken or lacks its one name"}},
		{"parts behind the last", parts, part("name=n\r\n\r\n1") + part("name=u\r\n\r\n1"), nil, []string{"body has something before its first part or behind its last"}},
		{"parts behind none", parts, "--B--\r\n" + part("name=u\r\n\r\n1"), nil, []string{"body has something before its first part or behind its last"}},
		{"text before the first part", parts, "u=1\r\n" + part("name=n\r\n\r\n1"), nil, []string{"body has something before its first part or behind its last"}},
		{"line ends around parts", parts, "\r\n" + part("name=n\r\n\r\n1", "name=f; filename=a.png\r\nContent-Type: image/png\r\n\r\nx --B--") + "\r\n", nil, nil},
		{"parts, broken", parts, "--B\r\nx", nil, []string{"body isn't multipart/form-data, or has too many parts"}},
		{"parts without a boundary", "multipart/form-data", "x", nil, []string{"the operation takes no body of such a media type"}},
		{"text", "text/csv", "1,2", nil, nil},
		{"text, wrong", "text/csv", "1,2,3,4", nil, []string{"body has to have at most 5 characters"}},
		{"text without a schema", "text/plain", "\xff", nil, []string{"verdict 1"}},
		{"range", "image/gif", "GIF", nil, []string{"verdict 1"}},
		{"unknown type", "application/xml", "<a/>", nil, []string{"the operation takes no body of such a media type"}},
		{"no type", "", "x", nil, []string{"the operation takes no body of such a media type"}},
		{"two types", "application/json", `{"n":1}`, []string{"Content-Type: text/plain"}, []string{"the operation takes no body of such a media type"}},
		{"broken type", "json", `{"n":1}`, nil, []string{"the operation takes no body of such a media type"}},
		{"missing", "", "", nil, []string{"the body is missing"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, bodyOf(t, a, tt.contentType, tt.text, tt.fields...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	o := a.Find(NewCheck(), "/b").Operation("POST")
	if got, want := o.Accept(), "application/vnd.own+json; v=2, application/json, application/vnd.own+json, application/x-www-form-urlencoded, multipart/form-data, text/csv, text/plain, image/*"; got != want {
		t.Errorf("Accept = %q, want %q", got, want)
	}
	x := policytest.Exchange(t, "POST http://x/none", "Content-Type: application/json")
	if _, v := a.Find(NewCheck(), "/none").Operation("POST").Content(x, true); v != Superfluous {
		t.Errorf("a body that nothing is said of: %v", v)
	}
}

// TestRanges: what a range of media types takes is read by what it is, and the
// operator has to know that there may be more.
func TestRanges(t *testing.T) {
	a := read(t, "paths: {/b: {post: {requestBody: {content: {'*/*': {schema: {type: object, required: [n], properties: {n: {type: integer}}}}}}}}}\n")
	if len(a.Unreadable) != 1 || a.Unreadable["*/*"] == nil {
		t.Errorf("Unreadable = %v", a.Unreadable)
	}
	for _, tt := range []struct {
		contentType, text string
		want              []string
	}{
		{"application/json", `{"n":1}`, nil},
		{"application/json", `{}`, []string{"body/n is required"}},
		{"application/x-www-form-urlencoded", `n=x`, []string{"body/n has to be integer"}},
		{"multipart/form-data; boundary=B", "--B\r\nContent-Disposition: form-data; name=n\r\n\r\n1\r\n--B--", nil},
		{"application/xml", `<a/>`, []string{"verdict 1"}},
	} {
		if diff := cmp.Diff(tt.want, bodyOf(t, a, tt.contentType, tt.text)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.contentType, diff)
		}
	}
}

func TestAnswers(t *testing.T) {
	a := read(t, `
paths:
  /a:
    get:
      responses:
        200: {description: ok, content: {application/json: {schema: {type: object, required: [id, secret], properties: {id: {type: integer, readOnly: true}, secret: {writeOnly: true}}}}, text/html: {schema: {type: string}}}}
        204: {description: nothing}
        4XX: {$ref: '#/components/responses/problem'}
  /d: {get: {responses: {default: {description: any, content: {'*/*': {}}}}}}
components: {responses: {problem: {description: bad, content: {application/problem+json: {schema: {type: object, required: [type]}}}}}}
`)
	for _, tt := range []struct {
		path        string
		status      int
		contentType string
		body        string
		want        []string
	}{
		{"/a", 200, "application/json", `{"id":1}`, nil},
		{"/a", 200, "application/json; charset=utf-8", `{}`, []string{"response/id is required"}},
		{"/a", 200, "application/json", `{`, []string{"response isn't JSON: a name is missing, at byte 1"}},
		{"/a", 200, "text/html", `<`, nil},
		{"/a", 200, "text/plain", `x`, []string{"response its media type isn't among those of 200"}},
		{"/a", 204, "", ``, nil},
		{"/a", 404, "application/problem+json", `{}`, []string{"response/type is required"}},
		{"/a", 500, "application/json", `{}`, []string{"response the status 500 isn't among its responses"}},
		{"/d", 500, "application/json", `{`, nil},
	} {
		c := NewCheck()
		content, ok := a.Find(c, tt.path).Operation("GET").Response(c, tt.status, tt.contentType)
		if ok {
			c.Answer(content, tt.body)
		}
		if diff := cmp.Diff(tt.want, texts(c.Found)); diff != "" {
			t.Errorf("%s %d %s %s (-want +got):\n%s", tt.path, tt.status, tt.contentType, tt.body, diff)
		}
	}
}

// TestRefused: descriptions that can't be gone by are refused, at the place
// that is wrong.
func TestRefused(t *testing.T) {
	path := func(text string) string { return "openapi: 3.1.0\npaths: {/a: " + text + "}\n" }
	for _, tt := range []struct{ name, text, want string }{
		{"Swagger", "swagger: '2.0'", "api.yaml:1:10: OpenAPI 2.0 (Swagger) isn't supported: convert it to 3.1"},
		{"nothing", "a: b", "api.yaml:1:1: it lacks the field openapi, which says that it is a description: openapi: 3.1.0"},
		{"empty", "", "api.yaml: is empty"},
		{"3.2", "openapi: 3.2.0", `api.yaml:1:10: OpenAPI "3.2.0" isn't supported: it has to be 3.1.x or 3.0.x`},
		{"no YAML", "a: [", "api.yaml: line 1: did not find expected node content"},
		{"twice", "openapi: 3.1.0\nopenapi: 3.1.0", `api.yaml:2:1: "openapi" stands here for the second time`},
		{"field", "openapi: 3.1.0\npath: {}\npaths: {}", `api.yaml:2:1: unknown field of the description "path": did you mean "paths"?`},
		{"no paths", "openapi: 3.1.0\n", `api.yaml:1:1: it has no paths`},
		{"method", path("{gett: {}}"), `api.yaml:2:14: unknown field of a path "gett": did you mean "get"?`},
		{"operation", path("{get: {parameter: []}}"), `api.yaml:2:20: unknown field of an operation "parameter": did you mean "parameters"?`},
		{"in", path("{get: {parameters: [{name: a, in: qeury, schema: {}}]}}"), `api.yaml:2:47: in has to be path, query, header or cookie, and is "qeury": did you mean "query"?`},
		{"no schema", path("{get: {parameters: [{name: a, in: query}]}}"), `api.yaml:2:33: the parameter query.a has to have either a schema or content`},
		{"variable", "openapi: 3.1.0\npaths: {'/a/{id}': {get: {}}}", `api.yaml:2:26: the path's variable {id} isn't among the parameters`},
		{"no variable", path("{get: {parameters: [{name: a, in: path, required: true, schema: {}}]}}"), `api.yaml:2:33: the path /a has no variable {a}`},
		{"not required", "openapi: 3.1.0\npaths: {'/a/{id}': {get: {parameters: [{name: id, in: path, schema: {}}]}}}", `api.yaml:2:40: a parameter of the path has to say required: true`},
		{"same path", "openapi: 3.1.0\npaths: {'/{a}': {}, '/{b}': {}}", `api.yaml:2:29: path "/{b}" is the same as "/{a}" but for the names of its variables`},
		{"slash", "openapi: 3.1.0\npaths: {a: {}}", `api.yaml:2:12: path "a" doesn't start with /`},
		{"adjacent", "openapi: 3.1.0\npaths: {'/{a}{b}': {}}", `api.yaml:2:20: path "/{a}{b}" has two variables with nothing between them: where one ends, nobody could tell`},
		{"twice a parameter", path("{get: {parameters: [{name: a, in: query, schema: {}}, {name: a, in: query, schema: {}}]}}"), `api.yaml:2:67: the parameter query.a stands here for the second time`},
		{"twice a field", path("{get: {parameters: [{name: X-A, in: header, schema: {}}, {name: x-a, in: header, schema: {}}]}}"), `api.yaml:2:70: the parameter header.x-a stands here for the second time`},
		{"beside a reference", "openapi: 3.1.0\npaths: {/a: {$ref: '#/paths/~1b', get: {}}, /b: {}}", `api.yaml:2:35: "get" has no meaning beside $ref`},
		{"style", path("{get: {parameters: [{name: a, in: query, style: simple, schema: {}}]}}"), `api.yaml:2:61: style simple doesn't go with in: query`},
		{"matrix", "openapi: 3.1.0\npaths: {'/{a}': {get: {parameters: [{name: a, in: path, required: true, style: matrix, schema: {}}]}}}", `api.yaml:2:80: style matrix isn't supported`},
		{"ambiguous", path("{get: {parameters: [{name: a, in: query, schema: {type: [object, string]}}]}}"), `api.yaml:2:33: query.a may be an object and something else, which no request could tell apart`},
		{"ambiguous list", path("{get: {parameters: [{name: a, in: query, explode: false, schema: {type: [array, string]}}]}}"), `api.yaml:2:33: query.a may be a list and a single value, which no request could tell apart`},
		{"no content", path("{post: {requestBody: {}}}"), `api.yaml:2:34: a requestBody lacks its content`},
		{"media type", path("{post: {requestBody: {content: {json: {}}}}}"), `api.yaml:2:51: "json" isn't a media type`},
		{"schema", path("{post: {requestBody: {content: {application/json: {schema: {typ: object}}}}}}"), `api.yaml:2:73: unknown keyword "typ": did you mean "type"?`},
		{"encoding", path("{post: {requestBody: {content: {multipart/form-data: {schema: {type: object}, encoding: {a: {headers: {}}}}}}}}"), `api.yaml:2:115: headers of a part aren't supported`},
		{"status", path("{get: {responses: {ok: {}}}}"), `api.yaml:2:36: "ok" isn't a status: it has to be like 200, 2XX or default`},
		{"reference", path("{get: {parameters: [{$ref: '#/components/parameters/a'}]}}"), `api.yaml:2:40: "#/components/parameters/a": there is no "components"`},
		{"loop", "openapi: 3.1.0\npaths: {}\ncomponents: {securitySchemes: {a: {$ref: '#/components/securitySchemes/a'}}}", `api.yaml:3:35: a reference that leads to itself`},
		{"alias", "openapi: &a\n  b: *a\n", "api.yaml:1: stands more than 200 deep, or in itself"},
		{"two documents", "openapi: 3.1.0\n---\na: b", "api.yaml:2: has a second YAML document"},
		{"JSON", "{\n \"openapi\": \"3.1.0\",\n \"paths\": {\"/a\": {\"gett\": {}}}\n}", `api.yaml:3:19: unknown field of a path "gett": did you mean "get"?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(nil, files(t, "api.yaml", tt.text))
			if err == nil || err.Error() != tt.want {
				t.Errorf("Read = %v\nwant   %s", err, tt.want)
			}
		})
	}
}

// TestManyErrors: all that is wrong is said, once each, up to a bound.
func TestManyErrors(t *testing.T) {
	var b strings.Builder
	b.WriteString("openapi: 3.1.0\npaths:\n  /a: {get: {parameters: [{$ref: '#/components/parameters/p'}]}}\n  /b: {get: {parameters: [{$ref: '#/components/parameters/p'}]}}\n")
	for i := range 30 {
		b.WriteString("  y" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + ": {}\n")
	}
	b.WriteString("components: {parameters: {p: {name: p, in: nowhere}}}\n")
	_, err := Read(nil, files(t, "api.yaml", b.String()))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxErrors+1 || strings.Count(err.Error(), "nowhere") != 1 || !strings.HasSuffix(lines[maxErrors], "and 11 errors more") {
		t.Errorf("%d lines, %q", len(lines), lines[len(lines)-1])
	}
}

// TestReferences: other files, in the folder and below.
func TestReferences(t *testing.T) {
	main := files(t,
		"api.yaml", "openapi: 3.1.0\npaths:\n  /a: {$ref: 'parts/paths.yaml#/a'}\n",
		"parts/paths.yaml", "a:\n  post:\n    requestBody: {content: {application/json: {schema: {$ref: schemas.json#/$defs/s}}}}\n    parameters: [{$ref: '../shared.yaml#/p'}]\n",
		"parts/schemas.json", "{\"$defs\": {\n\t\"s\": {\"type\": \"object\", \"properties\": {\"s\": {\"$ref\": \"#/$defs/s\"}, \"n\": {\"$ref\": \"../shared.yaml#/n\"}}}\n}}",
		"shared.yaml", "n: {type: integer}\np: {name: p, in: query, schema: {type: integer}}\n")
	a, err := Read(nil, main)
	if err != nil {
		t.Fatal(err)
	}
	c := NewCheck()
	o := a.Find(c, "/a").Operation("POST")
	x := policytest.Exchange(t, "POST http://x/a?p=x", "Content-Type: application/json")
	o.Parameters(a, c, x)
	content, _ := o.Content(x, true)
	c.Body(content, `{"s":{"s":{"n":"x"}}}`)
	if diff := cmp.Diff([]string{"query.p has to be integer", "body/s/s/n has to be integer"}, texts(c.Found)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	dir := filepath.Dir(main)
	outside := filepath.Join(t.TempDir(), "secret.yaml")
	for path, text := range map[string]string{outside: "a: {}", filepath.Join(dir, "broken.yaml"): "a: ["} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link.yaml")); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"link.yaml#/a":         `"link.yaml#/a": link.yaml can't be read: path escapes from parent`,
		"/etc/hostname":        `"/etc/hostname": a document refers to files in its own folder and below, and to nothing else`,
		"../x.yaml":            `"../x.yaml" leads out of the document's folder`,
		"parts/../../x.yaml":   `"parts/../../x.yaml" leads out of the document's folder`,
		"http://127.0.0.1/a":   `"http://127.0.0.1/a": a document refers to files in its own folder and below, and to nothing else`,
		"//127.0.0.1/a":        `"//127.0.0.1/a": a document refers to files in its own folder and below, and to nothing else`,
		"none.yaml":            `"none.yaml": none.yaml can't be read: no such file or directory`,
		"parts":                `"parts": parts isn't a file`,
		"broken.yaml":          `"broken.yaml": broken.yaml: line 1: did not find expected node content`,
		"parts/paths.yaml#/b":  `"parts/paths.yaml#/b": there is no "b": did you mean "a"?`,
		"parts/paths.yaml#/a/": `"parts/paths.yaml#/a/": there is no ""`,
	} {
		text := "openapi: 3.1.0\npaths: {/a: {$ref: '" + ref + "'}}\n"
		if err := os.WriteFile(main, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(nil, main); err == nil || err.Error() != "api.yaml:2:20: "+want {
			t.Errorf("%s: %v\nwant api.yaml:2:20: %s", ref, err, want)
		}
	}
}

func TestBases(t *testing.T) {
	for _, tt := range []struct {
		servers string
		want    []string
		err     string
	}{
		{"", []string{""}, ""},
		{"servers: []", []string{""}, ""},
		{"servers: [{url: 'https://api.example.com'}, {url: /}]", []string{""}, ""},
		{"servers: [{url: 'https://api.example.com/v1/'}, {url: /beta/v2}, {url: v1}]", []string{"/beta/v2", "/v1"}, ""},
		{"servers: [{url: '{scheme}://h/{v}', variables: {scheme: {default: https}, v: {default: v3}}}]", []string{"/v3"}, ""},
		{"servers: [{url: 'https://h/{v}'}]", nil, "api.yaml:3:17: the server's url \"https://h/{v}\" isn't one that a path can be taken from: set base_path"},
	} {
		a := read(t, tt.servers+"\npaths: {}")
		err := a.CheckBases()
		if diff := cmp.Diff(tt.want, a.Bases); diff != "" || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%s: %v, %v", tt.servers, a.Bases, err)
		}
	}
	a := read(t, "paths: {/a: {servers: [{url: /x}], get: {}}}")
	if err := a.CheckBases(); err == nil {
		t.Error("servers of a path are passed over")
	}
}

// TestFiles: a description is read once, and again when one of its files has
// changed.
func TestFiles(t *testing.T) {
	main := files(t, "api.yaml", "openapi: 3.1.0\ninfo: {title: {$ref: x}}\npaths: {/a: {$ref: 'p.yaml'}}\n", "p.yaml", "get: {}\n")
	f := &Files{}
	one, err := Read(f, main)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := Read(f, main); err != nil || two != one {
		t.Errorf("read again without a change: %v", err)
	}
	part := filepath.Join(filepath.Dir(main), "p.yaml")
	if err := os.WriteFile(part, []byte("get: {}\npost: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	three, err := Read(f, main)
	if err != nil || three == one || three.Operations != 2 {
		t.Fatalf("after a change of a part: %v, %v", three, err)
	}
	if err := os.WriteFile(part, []byte("gte: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(f, main); err == nil {
		t.Error("a broken part is taken")
	}
	if _, err := Read(f, main); err == nil {
		t.Error("a broken part is taken the second time")
	}
	if diff := cmp.Diff([]string{main, part, main}, f.Paths()); diff != "" {
		t.Errorf("Paths (-want +got):\n%s", diff)
	}
	runtime.KeepAlive(three) // what nobody uses any more would be forgotten
}
