package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt/jwttest"
)

// The attacks that a gateway is there to stop, on the built binary: each policy
// guards something, and an attacker tries to get at it. Attacks on one policy
// alone, such as those on tokens, are in that policy's own tests.

// guard is a policy, as a guarded route has it.
type guard struct {
	name, block string
	status      int
	problem     string
	reason      string // what the access log says
	wide        bool   // the block is the whole host's and looks at the path itself
}

func guards(issuer, service, document string) []guard {
	return []guard{
		{name: "forward", block: fmt.Sprintf("auth \"forward\" { url = %q }", service), status: 401, problem: "unauthenticated", reason: "unauthenticated: "},
		{name: "rate", block: "rate_limit {\n rate = \"1/day\"\n burst = 1\n }", status: 429, problem: "rate-limited", reason: "rate-limited: more than 1/day by client_ip"},
		{name: "quota", block: "quota {\n limit = \"1/month\"\n by = \"client_ip\"\n }", status: 429, problem: "quota-exceeded", reason: "quota-exceeded: "},
		{name: "document", block: fmt.Sprintf("validate { openapi = %q }", document), status: 404, problem: "not-in-api", reason: "not-in-api: ", wide: true},
		{name: "key", block: `auth "api_key" {}`, status: 401, problem: "unauthenticated", reason: "unauthenticated: no credential: "},
		{name: "basic", block: `auth "basic" {}`, status: 401, problem: "unauthenticated", reason: "unauthenticated: no credential: "},
		{name: "jwt", block: fmt.Sprintf("auth \"jwt\" {\n issuer = %q\n audience = [\"api\"]\n }", issuer), status: 401, problem: "unauthenticated", reason: "unauthenticated: no credential: "},
		{name: "introspect", block: "auth \"introspect\" {\n url = \"http://127.0.0.1:1/\"\n client_id = \"a\"\n client_secret = \"b\"\n }", status: 401, problem: "unauthenticated", reason: "unauthenticated: no credential: "},
		{name: "oidc", block: fmt.Sprintf("auth \"oidc\" {\n issuer = %q\n client_id = \"a\"\n }", issuer), status: 401, problem: "unauthenticated", reason: "unauthenticated: no credential: "},
		{name: "away", block: "auth \"forward\" {\n url = \"http://127.0.0.1:1/\"\n }", status: 503, problem: "auth-unavailable", reason: "auth-unavailable: the auth service can't be asked: "},
		{name: "mtls", block: `auth "mtls" {}`, status: 403, problem: "forbidden", reason: "forbidden: no credential: "},
		{name: "authorize", block: `authorize = "has(claims.admin)"`, status: 403, problem: "forbidden", reason: "forbidden: authorize: the condition doesn't hold: has(claims.admin)"},
		{name: "condition", block: `authorize = "!request.path.startsWith('/guarded')"`, status: 403, problem: "forbidden", reason: "forbidden: authorize: the condition doesn't hold: !request.path", wide: true},
		{name: "network", block: `block { deny = ["127.0.0.0/8"] }`, status: 403, problem: "forbidden", reason: "forbidden: block: the address is among those in deny"},
		{name: "paths", block: `block { paths = ["/guarded/*"] }`, status: 403, problem: "forbidden", reason: "forbidden: block: the path is blocked", wide: true},
		{name: "uri", block: `limits { uri = "1B" }`, status: 414, problem: "uri-too-long", reason: "uri-too-long: "},
	}
}

// attackConfig has a host for each guard, where /guarded/* is guarded and all
// else is open.
func attackConfig(list []guard, backend string) string {
	var b strings.Builder
	b.WriteString(accessLog + backend)
	for _, g := range list {
		paths := `["/guarded/*"]`
		if g.wide {
			paths = `["/*"]`
		} else {
			fmt.Fprintf(&b, "route \"open-%[1]s\" {\n hosts = [\"%[1]s.test\"]\n service = \"one\"\n}\n", g.name)
		}
		fmt.Fprintf(&b, "route %[1]q {\n hosts = [\"%[1]s.test\"]\n paths = %[2]s\n service = \"one\"\n %[3]s\n}\n", g.name, paths, g.block)
	}
	return b.String()
}

// spellings are ways to write /guarded/x, or to make some service read it.
var spellings = []string{
	"/guarded/x", "//guarded/x", "///guarded///x", "/./guarded/x", "/guarded/./x", "/guarded//x", "/guarded/../guarded/x", "/open/../guarded/x",
	"/open/..//guarded/x", "/open/%2e%2e/guarded/x", "/open/.%2e/guarded/x", "/%2e/guarded/x", "/open/..%2fguarded/x", "/open/..%2Fguarded/x",
	"/open%2f..%2fguarded/x", "/guarded%2fx", "/guarded%2Fx", "/%67uarded/x", "/%67%75%61%72%64%65%64/x", "/%2567uarded/x", "/open/%252e%252e/guarded/x",
	"/guarded%5cx", "/open/..%5cguarded%5cx", "/open/%5c../guarded/x", "/guarded%00/x", "/guarded/x%00", "/guarded%0a/x", "/%0d%0aguarded/x",
	"/guarded;/x", "/guarded;a=b/x", "/guarded/x;a=b", "/guarded;", "/;/guarded/x", "/;a=b/guarded/x", "/open/..;/guarded/x", "/open/..;a=b/guarded/x", "/open/.;/../guarded/x",
	"/open;/../guarded/x", "/guarded%3b/x", "/open/..%3b/guarded/x", "/open/%2e%2e;/guarded/x", "/guarded%3fx", "/guarded%23x", "/guarded?x", "/guarded/?x", "/guarded", "/guarded/",
	"/%c0%afguarded/x", "/open/%c0%ae%c0%ae/guarded/x", "/%e0%80%afguarded/x", "/%u0067uarded/x", "/guarded%/x", "/guarded%2/x", "/..%00/guarded/x", "/../guarded/x", "/open/../../guarded/x",
}

// widest is the path that the most careless of services makes of p: it decodes
// more than once, takes \ for /, leaves parameters out, and resolves dots last.
func widest(p string) string {
	for range 3 {
		if d, err := url.PathUnescape(p); err == nil {
			p = d
		}
	}
	p = strings.ReplaceAll(p, `\`, "/")
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(strings.TrimRight(s, "\x00 "), ";")
	}
	return path.Clean("/" + strings.Join(segments, "/"))
}

// rawTarget sends a request whose target is spelled as given.
func rawTarget(t *testing.T, c protocolClient, host, target string) (*http.Response, string) {
	t.Helper()
	r := request(t, context.Background(), "GET", c.scheme+"://"+host+"/", nil)
	r.URL.Opaque = target
	if strings.HasPrefix(target, "//") { // Opaque would be an authority
		r.URL.Opaque = "//" + host + target
	}
	return sendWith(t, c, r)
}

// TestAttackPaths: no spelling of a path gets around a policy, over any
// protocol, and a refusal tells its reason to the log alone.
func TestAttackPaths(t *testing.T) {
	i := jwttest.New(t)
	i.Add("k", "RS256")
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
	t.Cleanup(refuses.Close)
	document := write(t, filepath.Join(t.TempDir(), "api.yaml"), "openapi: 3.1.0\ninfo: {title: t, version: '1'}\npaths:\n  /open: {get: {responses: {'200': {description: ok}}}}\n")
	list := guards(i.URL, refuses.URL, document)
	g := newGateway(t, attackConfig(list, twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"path": r.RequestURI}) // the client sees what it gets
	}))))
	g.start(t)
	for _, p := range list { // uses up what may be used once
		send(t, g.clients(t)[0], "https://"+p.name+".test/guarded/x")
	}
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			for _, p := range list {
				host := p.name + ".test"
				if resp, body := send(t, c, c.scheme+"://"+host+"/open"); resp.StatusCode != 200 && p.name != "uri" {
					t.Fatalf("%s: what is open: %s %s", p.name, resp.Status, body)
				}
				resp, body := send(t, c, c.scheme+"://"+host+"/guarded/x")
				wantProblem(t, resp, body, p.status, p.problem)
				for _, word := range []string{p.name, "127.0.0", "none", "condition", "claims", "deny", "/guarded"} {
					if strings.Contains(strings.ReplaceAll(body, p.problem, ""), word) {
						t.Errorf("%s: the refusal says %q: %s", p.name, word, body)
					}
				}
				for _, target := range spellings {
					resp, body := rawTarget(t, c, host, target)
					if resp.StatusCode == 200 {
						var saw struct{ Path string }
						if err := json.Unmarshal([]byte(body), &saw); err != nil {
							t.Fatalf("%s %s: %q", host, target, body)
						}
						if w := widest(saw.Path); w == "/guarded" || strings.HasPrefix(w, "/guarded/") {
							t.Errorf("%s: %s got through as %s", p.name, target, saw.Path)
						}
					} else if resp.StatusCode != p.status && (resp.StatusCode < 400 || resp.StatusCode > 499) {
						t.Errorf("%s: %s: %s", p.name, target, resp.Status)
					}
				}
			}
			for _, host := range []string{"KEY.test", "key.test.", "Key.Test.", "key.test:443", "KEY.TEST.:80"} {
				if resp, _ := sendWith(t, c, hosted(t, c, host)); resp.StatusCode != 401 {
					t.Errorf("host %s: %s", host, resp.Status)
				}
			}
		})
	}
	for _, p := range list {
		g.logged(t, p.name+": why", func(l logLine) bool { return l.Status == p.status && strings.HasPrefix(l.Error, p.reason) })
	}
}

// hosted is a request for the guarded path of a host in some spelling.
func hosted(t *testing.T, c protocolClient, host string) *http.Request {
	t.Helper()
	r := request(t, context.Background(), "GET", c.scheme+"://key.test/guarded/x", nil)
	r.Host = host
	return r
}

// TestAttackIdentity: who a client is, only the gateway tells a service,
// whatever the client writes, wherever it writes it.
func TestAttackIdentity(t *testing.T) {
	backend := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for name, values := range r.Trailer {
			r.Header["Trailer-"+name] = values
		}
		mirror(w, r)
	}
	g := newGateway(t, twin(t, http.HandlerFunc(backend))+fmt.Sprintf(`
consumer "acme" {
  api_key { sha256 = %q }
}
route "identity" {
  hosts   = ["identity.test"]
  service = "one"
  auth "api_key" {}
  request {
    set = {
      "X-Consumer" = "{consumer.name}"
      "X-Plan"     = "{consumer.plan}"
    }
  }
}
`, keyHash(acmeKey))).start(t)
	head := "POST / HTTP/1.1\r\nHost: identity.test\r\nX-API-Key: " + acmeKey + "\r\n"
	for name, tt := range map[string]struct {
		request string
		status  int
	}{
		"as it is":              {head + "X-Consumer: root\r\nX-Plan: root\r\nContent-Length: 0\r\n\r\n", 200},
		"other case":            {head + "x-CONSUMER: root\r\nX-pLAN: root\r\nContent-Length: 0\r\n\r\n", 200},
		"underscore":            {head + "X_Consumer: root\r\nx_plan: root\r\nContent-Length: 0\r\n\r\n", 200},
		"dot":                   {head + "X.Consumer: root\r\nX.Plan: root\r\nContent-Length: 0\r\n\r\n", 200},
		"twice":                 {head + "X-Consumer: root\r\nX-Consumer: root2\r\nContent-Length: 0\r\n\r\n", 200},
		"many":                  {head + strings.Repeat("X-Plan: root\r\n", 20) + "Content-Length: 0\r\n\r\n", 200},
		"named by Connection":   {head + "Connection: X-Consumer, X-Plan, X-API-Key\r\nX-Consumer: root\r\nContent-Length: 0\r\n\r\n", 200},
		"trailer":               {head + "Transfer-Encoding: chunked\r\nTrailer: X-Consumer\r\n\r\n0\r\nX-Consumer: root\r\nX-Plan: root\r\nx_plan: root\r\n\r\n", 200},
		"space before colon":    {head + "X-Consumer : root\r\nContent-Length: 0\r\n\r\n", 400},
		"folded":                {head + "X-Other: a\r\n X-Consumer: root\r\nContent-Length: 0\r\n\r\n", 400},
		"bare LF":               {head + "X-Other: a\nX-Consumer: root\r\nContent-Length: 0\r\n\r\n", 400},
		"bare CR":               {head + "X-Other: a\rX-Consumer: root\r\nContent-Length: 0\r\n\r\n", 400},
		"NUL":                   {head + "X-Consumer\x00: root\r\nContent-Length: 0\r\n\r\n", 400},
		"no name":               {head + ": root\r\nContent-Length: 0\r\n\r\n", 400},
		"key twice":             {head + "X-API-Key: " + umbrellaKey + "\r\nContent-Length: 0\r\n\r\n", 400},
		"key with an alias":     {head + "X_API_Key: root\r\nContent-Length: 0\r\n\r\n", 200},
		"smuggled behind":       {head + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\nX-Consumer: root\r\n\r\n", 400},
		"smuggled by two sizes": {head + "Content-Length: 0\r\nContent-Length: 30\r\n\r\nGET / HTTP/1.1\r\nX-Consumer: root\r\n\r\n", 400},
	} {
		resp, body, err := ask(g.raw(t), tt.request)
		if err != nil || resp.StatusCode != tt.status {
			t.Errorf("%s: %v, %v, want %d", name, resp, err, tt.status)
			continue
		}
		if tt.status != 200 {
			continue
		}
		h := seenIn(t, body).Header
		if strings.Contains(body, "root") || strings.Contains(body, acmeKey) || len(h.Values("X-Consumer")) != 1 || h.Get("X-Consumer") != "acme" {
			t.Errorf("%s: the service saw %s", name, body)
		}
	}
	for _, c := range g.clients(t) {
		_, body := send(t, c, c.scheme+"://identity.test/", "X-API-Key: "+acmeKey, "x-consumer: root", "X_Consumer: root", "x.consumer: root", "X-PLAN: root", "x_plan: root")
		if h := seenIn(t, body).Header; strings.Contains(body, "root") || h.Get("X-Consumer") != "acme" {
			t.Errorf("%s: the service saw %s", c.name, body)
		}
	}
}

// TestAttackRaces: 64 clients at once, over all protocols, get no more out of a
// limit than one.
func TestAttackRaces(t *testing.T) {
	var reached atomic.Int32
	g := newGateway(t, twin(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))+`
route "raced" {
  hosts   = ["raced.test"]
  service = "one"
  rate_limit {
    rate  = "1/h"
    burst = 100
  }
}
`).start(t)
	clients := g.clients(t)
	var passed atomic.Int32
	var all sync.WaitGroup
	begin := make(chan struct{})
	for n := range 64 {
		c := clients[n%len(clients)]
		all.Go(func() {
			<-begin
			for range 10 {
				resp, err := c.Get(c.scheme + "://raced.test/")
				if err != nil {
					t.Error(err)
					return
				}
				_ = resp.Body.Close()
				switch resp.StatusCode {
				case 200:
					passed.Add(1)
				case 429:
				default:
					t.Error(resp.Status)
				}
			}
		})
	}
	close(begin)
	all.Wait()
	if passed.Load() != 100 || reached.Load() != 100 {
		t.Errorf("%d answered, %d reached the service, want 100", passed.Load(), reached.Load())
	}
}

// TestAttackMillionKeys: a client that invents a key for each request costs the
// gateway 100 MiB at most for a million of them, and those of others hold.
func TestAttackMillionKeys(t *testing.T) {
	g := newGateway(t, `
route "counted" {
  hosts = ["counted.test"]
  respond { status = 204 }
  rate_limit {
    rate  = "1/h"
    burst = 1
    by    = "header:X-Client"
  }
}
`).start(t)
	ask1 := func(c net.Conn, r *bufio.Reader, from, to int) error {
		var b strings.Builder
		for n := from; n < to; n++ {
			fmt.Fprintf(&b, "GET / HTTP/1.1\r\nHost: counted.test\r\nX-Client: %d\r\n\r\n", n)
		}
		failed := make(chan error, 1)
		go func() {
			_, err := io.WriteString(c, b.String())
			failed <- err
		}()
		for range to - from {
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 204 {
				return fmt.Errorf("%s, %w", resp.Status, err)
			}
		}
		return <-failed
	}
	before := residentKiB(t, g.cmd.Process.Pid)
	const keys, conns, batch = 1_000_000, 4, 1000
	var all sync.WaitGroup
	for part := range conns {
		c := g.raw(t)
		r := bufio.NewReader(c)
		all.Go(func() {
			for n := part * keys / conns; n < (part+1)*keys/conns; n += batch {
				if err := ask1(c, r, n, n+batch); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if grown := residentKiB(t, g.cmd.Process.Pid) - before; grown > 100<<10 {
		t.Errorf("a million keys take %d KiB, want 100 MiB at most", grown)
	}
	c := g.raw(t)
	for _, n := range []int{0, keys / 2, keys - 1} { // still known
		resp, _, err := ask(c, fmt.Sprintf("GET / HTTP/1.1\r\nHost: counted.test\r\nX-Client: %d\r\n\r\n", n))
		if err != nil || resp.StatusCode != 429 {
			t.Errorf("key %d once more: %v, %v, want 429", n, resp, err)
		}
	}
}

// residentKiB is the memory that a process holds.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
