package waf

import (
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	coraza "github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/types"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

const attack = "GET /?q=%3Cscript%3Ealert(1)%3C/script%3E"

func TestREADME(t *testing.T) { policytest.README(t, "README.md", Kind(shared())) }

// TestModes: block refuses, detect only tells, off does nothing at all.
func TestModes(t *testing.T) {
	s, audit := newStore()
	block, detect := newPolicy(t, s, `waf {}`), newPolicy(t, s, `waf { mode = "detect" }`)
	x := request(t, attack)
	_, err := block.Request(x)
	if err == nil || !x.Blocked || !strings.Contains(x.Attack, "941100") {
		t.Errorf("block: %v, %q, %v", err, x.Attack, x.Blocked)
	}
	for _, want := range []string{"forbidden: waf: score ", "941100 XSS Attack Detected via libinjection (ARGS:q)", "; and "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the reason is %v, want %q in it", err, want)
		}
	}
	x = request(t, attack)
	if got := verdict(t, detect, x); got != "" || x.Blocked || !strings.Contains(x.Attack, "941100") {
		t.Errorf("detect: %q, %q, %v", got, x.Attack, x.Blocked)
	}
	for _, p := range []*Policy{block, detect} {
		x := request(t, "GET /")
		if got := verdict(t, p, x); got != "" || x.Attack != "" || x.Blocked {
			t.Errorf("%s: %q, %q, %v", p.Mode, got, x.Attack, x.Blocked)
		}
	}
	p := policytest.Policy(t, Kind(s), `waf { mode = "off" }`)
	if _, ok := p.(policy.Requester); ok || p.(policy.Explainer).Explain() != "off" {
		t.Error("mode off sees requests")
	}
	want := []Count{{Route: "test", Mode: "block", Requests: 2, Attacks: 1}, {Route: "test", Mode: "detect", Requests: 2, Attacks: 1}}
	got := s.Counts()
	for i := range got {
		if got[i].Time <= 0 {
			t.Error("inspecting took no time")
		}
		got[i].Time = 0
	}
	if !slices.Equal(got, want) {
		t.Errorf("counts: %+v, want %+v", got, want)
	}
	s.Retain(map[string]bool{"other": true})
	if list := s.Counts(); len(list) != 0 {
		t.Errorf("counts of a route that is gone: %+v", list)
	}
	lines := strings.Split(strings.TrimSpace(string(audit.b)), "\n")
	if len(lines) != 2 {
		t.Fatalf("audit log: %q", audit.b)
	}
	for i, line := range lines {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.ClientIP != "192.0.2.1" || e.Path != "/" || e.Host != "api.example.com" || e.Route != "test" || e.Action != []string{"blocked", "detected"}[i] || e.Score < 5 ||
			e.Threshold != 5 || e.RequestID != "r-1" || e.Rules[0].ID != 941100 || e.Rules[0].Severity != "critical" || !slices.Equal(e.Rules[0].Where, []string{"ARGS:q"}) {
			t.Errorf("audit log: %s", line)
		}
		if strings.Contains(line, "alert") {
			t.Errorf("the audit log has the value: %s", line)
		}
	}
}

// TestSecrets: where something was found is told, what stands there never is.
func TestSecrets(t *testing.T) {
	s, audit := newStore()
	p := newPolicy(t, s, `waf { paranoia = 4 }`)
	const secret = "<script>s3cr3t</script>' or 1=1--"
	for _, more := range [][]string{
		{"Authorization: Bearer " + secret}, {"Cookie: session=" + secret}, {"X-Api-Key: " + secret},
		{asForm, "", `a<s3cr3t>=1&a<s3cr3t>=2`}, {asForm, "", `{"password":"s3cr3t' or 1=1--"}`}, {asForm, "", "password=" + secret}, {asJSON, "", `{"password":"` + secret + `"}`}, {asText, "", secret},
	} {
		line := "GET /"
		if slices.Contains(more, "") {
			line = "POST /"
		}
		x := request(t, line, more...)
		_, err := p.Request(x)
		if err == nil {
			t.Errorf("%q passes", more)
			continue
		}
		if strings.Contains(err.Error(), "s3cr3t") || strings.Contains(x.Attack, "s3cr3t") {
			t.Errorf("%q: %v", more, err)
		}
	}
	if strings.Contains(string(audit.b), "s3cr3t") {
		t.Errorf("audit log: %s", audit.b)
	}
}

func TestExclude(t *testing.T) {
	s := shared()
	const sql = "1'%20OR%20'1'='1'%20--%20"
	for _, tt := range []struct {
		block string
		line  string
		want  string
	}{
		{`exclude { rules = ["942100"] }`, "GET /?q=" + sql, ""},
		{`exclude { rules = ["942000-942999"] }`, "GET /?q=" + sql, ""},
		{`exclude { rules = ["attack-sqli"] }`, "GET /?q=" + sql, ""},
		{`exclude { rules = ["attack-sqli"] }`, attack, "forbidden"},
		{`exclude { rules = ["941100", "attack-sqli"] }`, "GET /?q=" + sql, ""},
		{"exclude {\n rules = [\"942100\"]\n targets = [\"ARGS:q\"]\n}", "GET /?q=" + sql, ""},
		{"exclude {\n rules = [\"942100\"]\n targets = [\"ARGS:q\"]\n}", "GET /?p=" + sql, "forbidden"},
		{"exclude {\n rules = [\"942000-942999\"]\n targets = [\"ARGS:p\", \"ARGS:q\"]\n}", "GET /?q=" + sql, ""},
		{"exclude {\n rules = [\"attack-sqli\"]\n targets = [\"ARGS:/^q/\"]\n}", "GET /?q1=" + sql, ""},
		{"exclude {\n rules = [\"attack-sqli\"]\n targets = [\"ARGS\"]\n}", "GET /?q=" + sql, ""},
		{"exclude {\n rules = [\"attack-sqli\"]\n targets = [\"REQUEST_COOKIES\"]\n}", "GET /?q=" + sql, "forbidden"},
		{"threshold = 10", "GET /?q=" + sql, ""},
		{"threshold = 10", attack, "forbidden"},
		{"paranoia = 1", "GET /?q=1%20and%20x", ""},
		{"paranoia = 4", "GET /?q=a%20%26%26%20b", "forbidden"},
	} {
		p := newPolicy(t, s, "waf {\n"+tt.block+"\n}")
		if got := verdict(t, p, request(t, tt.line)); got != tt.want {
			t.Errorf("%s: %s: %q, want %q", tt.block, tt.line, got, tt.want)
		}
	}
	for block, want := range map[string]string{
		`exclude { rules = ["123456"] }`:                             `exclude: rules: there is no rule with "123456"`,
		`exclude { rules = ["1-2"] }`:                                `exclude: rules: there is no rule with "1-2"`,
		`exclude { rules = ["attack-sql"] }`:                         `exclude: rules: there is no rule with "attack-sql"`,
		"exclude {\n rules = [\"123456\"]\n targets = [\"ARGS\"]\n}": `rule "123456" not found`,
	} {
		if _, err := policytest.Try(t, Kind(s), "waf {\n"+block+"\n}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", block, err, want)
		}
	}
}

func TestOwnRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.conf")
	try := func(text string) (policy.Policy, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return policytest.Try(t, Kind(shared()), "waf { rules_file = \""+path+"\" }")
	}
	p, err := try(`# comments and empty lines are nothing

SecRule REQUEST_HEADERS:X-Tenant "@streq evil" \
  "id:1,phase:1,deny,\
  msg:'a tenant that left',severity:CRITICAL"
SecRule ARGS:a "@streq 1" "id:2,phase:2,deny,chain"
  SecRule ARGS:b "@streq 2" "t:none"
SecRule REQUEST_FILENAME "@beginsWith /editor/" "id:3,phase:1,pass,nolog,ctl:ruleRemoveByTag=attack-xss"
`)
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]string{
		"GET /?a=1":     "",
		"GET /?b=2":     "",
		"GET /?a=1&b=2": "forbidden",
		attack:          "forbidden",
		strings.Replace(attack, "/?", "/editor/?", 1): "",
	} {
		if got := verdict(t, p.(*Policy), request(t, line)); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
	x := request(t, "GET /", "X-Tenant: evil")
	if _, err := p.(*Policy).Request(x); err == nil || err.Error() != "forbidden: waf: 1 a tenant that left (REQUEST_HEADERS:X-Tenant)" || x.Attack != "1" {
		t.Errorf("own rule: %v, %q", err, x.Attack)
	}
	for text, want := range map[string]string{
		"SecRuleEngine Off":                             `:1: "SecRuleEngine" isn't SecRule`,
		"\n\nSecRule ARGS \"@rx a\" \"id:1,deny\" \\\n": ":3: the directive doesn't end",
		"SecRule ARGS \"@rx a\" \"id:1,deny\"\nSecRule ARGS \"@rx [\" \"id:2,deny\"\nSecAction \"id:3,pass\"": ":2: ",
		"SecRule ARGS \"@rx a\" \"id:1,deny\"\nSecRule ARGS \"@rx b\" \"id:1,deny\"":                          ":2: ",
		"SecRule ARGS \"@rx a\" \"id:942100,deny\"":                                                           ":1: id 942100: one's own rules have ids from 1 to 99999",
		"SecRule ARGS \"@rx a\" \"phase:2,deny\"":                                                             ":1: id 0",
		"SecAction \"id:1,pass\"\nSecRule ARGS \"@rx a\" \"id:2,phase:2,deny,chain\"":                         ":2: the chain goes on, but there is no further rule",
		"SecRule ARGS \"@inspectFile /bin/x\" \"id:1,deny\"":                                                  ":1: the operator @inspectFile isn't",
		"SecRule ARGS \"!@ pmFromFile x\" \"id:1,deny\"":                                                      ":1: the operator @pmFromFile isn't",
		"SecRule ARGS \"@rx a\" \"id:1,deny,exec:/bin/x\"":                                                    ":1: the action exec isn't",
		"SecRule ARGS \"@rx a\" \"id:1,deny,setenv:'A=b'\"":                                                   ":1: the action setenv isn't",
		"SecRule ARGS \"@rx " + strings.Repeat("a", 40<<10) + "\" \"id:1,deny\"":                              ":1: a directive of more than 32768 bytes",
		"SecRule ARGS \"@pmFromDataset x\" \"id:1,deny\"\nSecDataset x `\na\n`":                               ":2: \"SecDataset\" isn't",
		"SecRule NOTHING \"@rx a\" \"id:1,deny\"":                                                             ":1: ",
	} {
		if _, err := try(text); err == nil || !strings.Contains(err.Error(), path+want) {
			t.Errorf("%.80q: %v, want %s", text, err, want)
		}
	}
}

// TestCrowded: what has too many parts is an attack, whatever the parts are.
func TestCrowded(t *testing.T) {
	p := newPolicy(t, shared(), `waf { arguments = 100 }`)
	many := func(s string, n int) string { return strings.Repeat(s, n) }
	for _, tt := range []struct {
		name string
		make func(n int) []string // line, fields, body
	}{
		{"query", func(n int) []string { return []string{"GET /?" + many("a=1&", n)} }},
		{"form", func(n int) []string { return []string{"POST /", asForm, "", many("a=1&", n)} }},
		{"JSON", func(n int) []string {
			var b strings.Builder
			for i := range n {
				b.WriteString(`,"word ` + strings.Repeat("a", i+1) + `"`)
			}
			return []string{"POST /", asJSON, "", "[" + b.String()[1:] + "]"}
		}},
		{"cookies", func(n int) []string {
			return []string{"GET /", "Cookie: " + strings.TrimSuffix(many("a=1; ", n), "; ")}
		}},
		{"multipart", func(n int) []string {
			return []string{"POST /", asPart, "", many("--XyZ\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n", n) + "--XyZ--\r\n"}
		}},
		{"XML attributes", func(n int) []string { return []string{"POST /", asXML, "", "<a " + many(`b="c" `, n) + "/>"} }},
		{"XML", func(n int) []string { return []string{"POST /", asXML, "", "<a>" + many(`<b>c</b>`, 2*n) + "</a>"} }},
	} {
		for n, want := range map[int]string{90: "", 120: "forbidden"} {
			m := tt.make(n)
			if got := verdict(t, p, request(t, m[0], m[1:]...)); got != want {
				t.Errorf("%d of %s: %q, want %q", n, tt.name, got, want)
			}
		}
	}
	// What is the same, or only a number, isn't counted again.
	if got := verdict(t, p, request(t, "POST /", asJSON, "", "["+many(`{"x":1.5,"y":"same","z":null},`, 1000)+"{}]")); got != "" {
		t.Errorf("an array of numbers: %q", got)
	}
	// Names that grow with their depth don't grow beyond measure.
	deep := many(`{"`+many("k", 400)+`":`, 50) + "[" + strings.TrimSuffix(many(`"x y",`, 1)+many(`"a b",`, 1), ",") + "]" + many("}", 50)
	if got := verdict(t, p, request(t, "POST /", asJSON, "", deep)); got != "" {
		t.Errorf("long names: %q", got)
	}
}

// TestPanic: a panic in the engine refuses in mode block, passes in mode detect.
func TestPanic(t *testing.T) {
	s, _ := newStore()
	for mode, want := range map[string]string{"block": "internal-error", "detect": ""} {
		p := newPolicy(t, s, `waf { mode = "`+mode+`" }`)
		p.engine = &engine{waf: panicking{}}
		x := request(t, "POST /", asJSON, "", "{}")
		if got := verdict(t, p, x); got != want {
			t.Errorf("%s: %q, want %q", mode, got, want)
		}
		if len(s.turns.free) != 0 || s.held.Load() != 0 {
			t.Errorf("%s: it keeps its turn or memory", mode)
		}
	}
}

type panicking struct{ coraza.WAF }

func (panicking) NewTransactionWithID(string) types.Transaction { panic("of the test") }

// TestOverload: without room to inspect, mode block refuses, detect lets pass.
func TestOverload(t *testing.T) {
	s, _ := newStore()
	p, watch := newPolicy(t, s, `waf {}`), newPolicy(t, s, `waf { mode = "detect" }`)
	for range cap(s.turns.free) {
		s.turns.free <- struct{}{}
	}
	s.turns.waiting.Store(int32(mostWaiting * cap(s.turns.free)))
	if got := verdict(t, p, request(t, "GET /")); got != "service-overloaded" {
		t.Errorf("too many wait: %q", got)
	}
	if got := verdict(t, watch, request(t, "GET /")); got != "" {
		t.Errorf("mode detect: %q", got)
	}
	x := request(t, "GET /") // others wait
	s.turns.account(x.ClientIP).paid.Store(int64(time.Since(s.turns.begin) + time.Hour))
	if got := verdict(t, p, x); got != "rate-limited" {
		t.Errorf("an address that has had more than its share: %q", got)
	}
	s.turns.waiting.Store(0)
	<-s.turns.free
	if got := verdict(t, p, x); got != "" {
		t.Errorf("the same with nobody waiting: %q", got)
	}
	for _, held := range []*atomic.Int64{&s.held, &s.turns.account(x.ClientIP).held} {
		held.Store(mostHeld)
		if got := verdict(t, p, request(t, "POST /", asJSON, "", "{}")); got != "service-overloaded" {
			t.Errorf("no memory: %q", got)
		}
		x := request(t, "POST /", asJSON, "", "{}")
		if got := verdict(t, watch, x); got != "" {
			t.Errorf("no memory in mode detect: %q", got)
		}
		if b, err := io.ReadAll(x.RequestBody); err != nil || string(b) != "{}" {
			t.Errorf("no memory in mode detect: %q, %v", b, err)
		}
		held.Store(0)
	}
	if n := s.Overloads(); n != 7 {
		t.Errorf("%d overloads, want 7", n)
	}
}

// TestTurns: an address pays for what it took, its neighbours in a /64 with it.
func TestTurns(t *testing.T) {
	turns := newTurns()
	a, neighbour, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.1")
	for turns.account(other) == turns.account(a) {
		other = other.Next()
	}
	if no := turns.take(a); no != granted {
		t.Fatal(no)
	}
	turns.leave(a, time.Hour)
	if turns.ahead(neighbour) <= credit || turns.ahead(other) > 0 || turns.account(netip.MustParseAddr("::ffff:192.0.2.9")) != turns.account(netip.MustParseAddr("192.0.2.9")) {
		t.Errorf("ahead: %v, of another: %v", turns.ahead(neighbour), turns.ahead(other))
	}
	// It waits like others as long as none of them does.
	for range cap(turns.free) {
		turns.free <- struct{}{}
	}
	got := make(chan refusal)
	go func() { got <- turns.take(a) }()
	<-turns.free
	if no := <-got; no != granted {
		t.Errorf("alone: %d", no)
	}
	if n := turns.yielding.Load() + turns.waiting.Load(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// TestEngines: blocks that say the same share their rules, as long as one is in
// use.
func TestEngines(t *testing.T) {
	s, _ := newStore()
	a, b := newPolicy(t, s, `waf {}`), newPolicy(t, s, "waf {\n mode = \"detect\"\n body = \"1KiB\"\n}")
	c := newPolicy(t, s, `waf { paranoia = 2 }`)
	if a.engine != b.engine || a.engine == c.engine || len(s.engines) != 2 {
		t.Errorf("%d engines, shared %v", len(s.engines), a.engine == b.engine)
	}
	runtime.KeepAlive(c)
	text := a.text
	a, b = nil, nil
	for end := time.Now().Add(10 * time.Second); s.engines[text].Value() != nil; {
		runtime.GC()
		if time.Now().After(end) {
			t.Fatal("an engine that nobody uses stays")
		}
	}
	if newPolicy(t, s, `waf {}`); s.engines[text].Value() == nil {
		t.Error("it isn't made again")
	}
}

func TestExplain(t *testing.T) {
	p := newPolicy(t, shared(), "waf {\n exclude { rules = [\"942100\"] }\n}")
	if got, want := p.Explain(), "block attacks at paranoia 1 from a score of 5, in 131072 bytes of body at most (longer ones are refused), 1 excludes"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := p.Test(request(t, attack)); !strings.HasPrefix(got, "refuses: score ") {
		t.Error(got)
	}
	if got := p.Test(request(t, "GET /")); got != "finds nothing in the head; a body is looked at when it comes" {
		t.Error(got)
	}
	if got := newPolicy(t, shared(), `waf { mode = "detect" }`).Test(request(t, attack)); !strings.HasPrefix(got, "would refuse, in mode block: score ") {
		t.Error(got)
	}
}

// TestTarget: the rules see the target as it was sent.
func TestTarget(t *testing.T) {
	for raw, want := range map[string]string{
		"/a/../b?c": "/a/../b?c", "*": "*", "http://h.test": "/", "http://h.test?a": "/?a", "HTTP://h.test/x?y": "/x?y",
	} {
		if got := target(&exchange.Exchange{RawTarget: raw}); got != want {
			t.Errorf("target(%q) = %q, want %q", raw, got, want)
		}
	}
	p := newPolicy(t, shared(), `waf {}`)
	x := request(t, "GET /")
	x.RawTarget = "https://api.example.com/?q=%3Cscript%3Ealert(1)%3C/script%3E"
	if got := verdict(t, p, x); got != "forbidden" {
		t.Errorf("in absolute form: %q", got)
	}
}
