package apikey

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

const (
	secret = "kT3/9+a= b%"
	old    = "that has ended"
)

func sum(key string) string {
	h := sha256.Sum256([]byte(key))
	return hex.EncodeToString(h[:])
}

func id(key string) string { return sum(key)[:12] }

func directory(t testing.TB) *consumer.Directory {
	t.Helper()
	d, err := consumer.Compile(nil, []*consumer.Config{{Name: "acme", Keys: []*consumer.KeyConfig{
		{SHA256: sum(secret)}, {SHA256: sum(old), Expires: "2026-01-01"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRequest(t *testing.T) {
	const escaped = "kT3%2f9%2Ba%3D+b%25"
	header := `auth "api_key" { header = "X-API-Key" }`
	query := "auth \"api_key\" {\n  query = \"key\"\n}"
	keep := "auth \"api_key\" {\n  query = \"key\"\n  forward = true\n}"
	tests := []struct {
		name, block, target string
		fields              []string
		err                 string   // "": admitted
		sent                []string // fields
		query               string
	}{
		{"right", header, "/", []string{"X-API-Key: " + secret, "A: b"}, "", []string{"A: b"}, ""},
		{"right in capitals", header, "/", []string{"x-api-KEY: " + secret}, "", nil, ""},
		{"default header", `auth "api_key" {}`, "/", []string{"X-API-Key: " + secret}, "", nil, ""},
		{"well-known header", `auth "api_key" { header = "Authorization" }`, "/", []string{"authorization: " + secret}, "", nil, ""},
		{"none", header, "/", nil, "unauthenticated: no credential: an API key in X-API-Key", nil, ""},
		{"wrong", header, "/", []string{"X-API-Key: nope"}, "unauthenticated: unknown key", nil, ""},
		{"expired", header, "/", []string{"X-API-Key: " + old}, "unauthenticated: key " + id(old) + ` of consumer "acme", expired 2026-01-01T00:00:00Z`, nil, ""},
		{"empty", header, "/", []string{"X-API-Key: "}, "unauthenticated: the key is empty", nil, ""},
		{"twice", header, "/", []string{"X-API-Key: " + secret, "x-api-key: " + secret}, "malformed-request: more than one key", nil, ""},
		{"list", header, "/", []string{"X-API-Key: " + secret + ", " + secret}, "unauthenticated: unknown key", nil, ""},
		{"long", header, "/", []string{"X-API-Key: " + strings.Repeat("a", 513)}, "unauthenticated: the key has more than 512 bytes", nil, ""},
		{"other spelling", header, "/", []string{"X_API_Key: " + secret}, "unauthenticated: no credential: an API key in X-API-Key", nil, ""},
		{"query where it isn't allowed", header, "/?key=" + escaped, nil, "unauthenticated: no credential: an API key in X-API-Key", nil, ""},
		{"query", query, "/?key=" + escaped, nil, "", nil, ""},
		{"query among others", query, "/?a=1&key=" + escaped + "&&b=2", nil, "", nil, "a=1&&b=2"},
		{"query, escaped name", query, "/?a=1&%6bey=" + escaped, nil, "", nil, "a=1"},
		{"query, other case", query, "/?Key=" + escaped, nil, "unauthenticated: no credential: an API key in X-API-Key or the query's key", nil, ""},
		{"query twice", query, "/?key=" + escaped + "&k%65y=" + escaped, nil, "malformed-request: more than one key", nil, ""},
		{"header and query", query, "/?key=" + escaped, []string{"X-API-Key: " + secret}, "malformed-request: more than one key", nil, ""},
		{"query, empty", query, "/?key=", nil, "unauthenticated: the key is empty", nil, ""},
		{"query, nothing", query, "/?key", nil, "unauthenticated: the key is empty", nil, ""},
		{"header, query allowed", query, "/?a=1", []string{"X-API-Key: " + secret}, "", nil, "a=1"},
		{"forwarded", keep, "/", []string{"X-API-Key: " + secret}, "", []string{"X-API-Key: " + secret}, ""},
		{"query forwarded", keep, "/?key=" + escaped, nil, "", nil, "key=" + escaped},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := policytest.Policy(t, Kind(directory(t)), tt.block).(policy.Requester)
			x := policytest.Exchange(t, "GET https://a.test"+tt.target, tt.fields...)
			verdict, err := p.Request(x)
			if tt.err != "" {
				if err == nil || err.Error() != tt.err || verdict != policy.Done || x.Consumer != nil {
					t.Fatalf("Request = %v, %v, consumer %v, want %q", verdict, err, x.Consumer, tt.err)
				}
				var f *exchange.Fault
				if !errors.As(err, &f) {
					t.Fatalf("error = %#v", err)
				}
				if f.Kind == exchange.Malformed {
					return // a request that no other key would mend
				}
				if f.Kind != exchange.Unauthenticated || f.Source != exchange.FromPolicy {
					t.Errorf("fault = %+v", f)
				}
				got := policytest.Sent(&x.Response, &x.ResponseEdits)
				if len(got) != 1 || !strings.HasPrefix(got[0], `WWW-Authenticate: ApiKey header="X-API-Key"`) {
					t.Errorf("answer's fields = %q", got)
				}
				if strings.Contains(err.Error(), secret) {
					t.Error("the log gets to see a key")
				}
				return
			}
			if err != nil || verdict != policy.Next || x.Consumer == nil || x.Consumer.Name != "acme" {
				t.Fatalf("Request = %v, %v, consumer %v", verdict, err, x.Consumer)
			}
			if d := cmp.Diff(tt.sent, policytest.Sent(&x.Request, &x.RequestEdits)); d != "" {
				t.Errorf("forwarded fields: %s", d)
			}
			if x.Target.Query != tt.query || x.Target.HasQuery != (tt.query != "") {
				t.Errorf("forwarded query = %q (%v), want %q", x.Target.Query, x.Target.HasQuery, tt.query)
			}
		})
	}
}

// TestSeveral: the first block that applies decides, and none of the
// credentials goes on.
func TestSeveral(t *testing.T) {
	kind := Kind(directory(t))
	var list []policy.Policy
	for _, name := range []string{"X-One", "X-Two"} {
		m, err := kind.New(&Config{Header: name})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	joined, err := kind.Join("r", list)
	if err != nil {
		t.Fatal(err)
	}
	p := joined.(policy.Requester)
	tests := []struct {
		fields []string
		err    string
	}{
		{[]string{"X-One: " + secret}, ""},
		{[]string{"X-Two: " + secret}, ""},
		{[]string{"X-One: " + secret, "X-Two: wrong"}, ""},
		{[]string{"X-One: wrong", "X-Two: " + secret}, "unauthenticated: unknown key"},
		{nil, "unauthenticated: no credential: an API key in X-One, else an API key in X-Two"},
	}
	for _, tt := range tests {
		x := policytest.Exchange(t, "GET https://a.test/", tt.fields...)
		_, err := p.Request(x)
		if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
			t.Errorf("%q: %v, want %q", tt.fields, err, tt.err)
		}
		if err == nil {
			if got := policytest.Sent(&x.Request, &x.RequestEdits); len(got) > 0 {
				t.Errorf("%q: %q went on", tt.fields, got)
			}
			continue
		}
		want := []string{`WWW-Authenticate: ApiKey header="X-One"`, `WWW-Authenticate: ApiKey header="X-Two"`}
		if d := cmp.Diff(want, policytest.Sent(&x.Response, &x.ResponseEdits)); d != "" {
			t.Errorf("%q: %s", tt.fields, d)
		}
	}
	x := policytest.Exchange(t, "GET https://a.test/", "X-One: "+secret)
	if got, want := joined.(policy.Tester).Test(x), `admits the consumer "acme" (key `+id(secret)+` of consumer "acme")`; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
	if got, want := joined.(policy.Tester).Test(policytest.Exchange(t, "GET https://a.test/", "X-One: w")), "refuses: unauthenticated: unknown key (no consumer has a key "+id("w")+")"; got != want {
		t.Errorf("Test = %q, want %q", got, want)
	}
}

func TestNewErrors(t *testing.T) {
	for block, want := range map[string]string{
		`auth "api_key" { header = "" }`:            `header: "" isn't the name`,
		`auth "api_key" { header = "X Key" }`:       `header: "X Key" isn't the name`,
		`auth "api_key" { header = "X_Key" }`:       `header: "X_Key" never arrives`,
		`auth "api_key" { header = "Cookie" }`:      `header: "Cookie" has a meaning`,
		`auth "api_key" { header = "Connection" }`:  `header: "Connection" has a meaning`,
		`auth "api_key" { query = "a&b" }`:          `query: "a&b" can't be the name`,
		`auth "api_key" { query = "with a space" }`: `query: "with a space" can't be the name`,
	} {
		if _, err := policytest.Try(t, Kind(nil), block); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", block, err, want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	p := policytest.Policy(t, Kind(directory(t)), "auth \"api_key\" {\n  query = \"key\"\n}").(policy.Requester)
	x := policytest.Exchange(t, "GET https://a.test/?a=b", "X-API-Key: "+secret)
	if n := testing.AllocsPerRun(100, func() {
		x.RequestEdits.Reset()
		if _, err := p.Request(x); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestKeyring: a key of the ring is found as one of a file is, in the header and
// in the query, and refused for its own reason, without an allocation.
func TestKeyring(t *testing.T) {
	d := directory(t)
	ring := consumer.NewKeyring()
	d.Attach(ring)
	more, _ := d.Extend([]*consumer.Config{{Name: "umbrella"}})
	ring.SetFiles(d, more)
	p := policytest.Policy(t, Kind(d), "auth \"api_key\" {\n  query = \"key\"\n}")
	select {
	case <-ring.Used():
	default:
		t.Error("nobody is said to look for keys")
	}
	at := time.Now()
	now := at.UTC().Format(time.RFC3339)
	key := func(text string) consumer.Key { return consumer.Key{Hash: sha256.Sum256([]byte(text))} }
	revoked, ended := key("revoked"), key("ended")
	revoked.Revoked, ended.Expires = at.Unix(), at.Unix()
	ring.Update(consumer.FromConsul, map[string]consumer.Record{
		"acme": {Keys: []consumer.Key{key("on"), revoked, ended}}, "umbrella": {Keys: []consumer.Key{key("other")}}, "nobody": {Keys: []consumer.Key{key("orphan")}},
	})
	for _, tt := range []struct{ key, consumer, err, test string }{
		{"on", "acme", "", `admits the consumer "acme" (key ` + id("on") + ` of consumer "acme")`},
		{"other", "umbrella", "", `admits the consumer "umbrella" (key ` + id("other") + ` of consumer "umbrella")`},
		{"revoked", "", "unauthenticated: key " + id("revoked") + ` of consumer "acme", revoked ` + now, "refuses: unauthenticated: key " + id("revoked") + ` of consumer "acme", revoked ` + now},
		{"ended", "", "unauthenticated: key " + id("ended") + ` of consumer "acme", expired ` + now, "refuses: unauthenticated: key " + id("ended") + ` of consumer "acme", expired ` + now},
		{"orphan", "", "unauthenticated: key " + id("orphan") + ` of consumer "nobody", which isn't there`, "refuses: unauthenticated: key " + id("orphan") + ` of consumer "nobody", which isn't there`},
		{"none", "", "unauthenticated: unknown key", "refuses: unauthenticated: unknown key (no consumer has a key " + id("none") + ")"},
	} {
		for _, where := range []string{"header", "query"} {
			target, fields := "/", []string{"X-API-Key: " + tt.key}
			if where == "query" {
				target, fields = "/?key="+tt.key, nil
			}
			x := policytest.Exchange(t, "GET https://a.test"+target, fields...)
			if got := p.(policy.Tester).Test(x); got != tt.test {
				t.Errorf("%s in the %s: Test = %q, want %q", tt.key, where, got, tt.test)
			}
			x = policytest.Exchange(t, "GET https://a.test"+target, fields...)
			_, err := p.(policy.Requester).Request(x)
			got, name := "", ""
			if err != nil {
				got = err.Error()
			}
			if x.Consumer != nil {
				name = x.Consumer.Name
			}
			if got != tt.err || name != tt.consumer {
				t.Errorf("%s in the %s: %q, %q, want %q, %q", tt.key, where, name, got, tt.consumer, tt.err)
			}
			if n := testing.AllocsPerRun(100, func() {
				x.RequestEdits.Reset()
				x.ResponseEdits.Reset()
				_, _ = p.(policy.Requester).Request(x)
			}); n != 0 && where == "header" && (tt.err == "" || tt.key == "none") {
				t.Errorf("%s: %v allocations", tt.key, n)
			}
		}
	}
}

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(nil)) }
