package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// keysConfig has a route that says who is calling, and a consumer without keys.
const keysConfig = accessLog + `
plan "gold" { rate = "1000/s" }
policy "reader" {
  authorize = "request.method != 'POST'"
}
consumer "acme" {
  plan = "gold"
}
route "keys" {
  hosts = ["keys.test"]
  auth "api_key" { query = "key" }
  response {
    set = { "X-Consumer" = "{consumer.name}/{consumer.plan}/{consumer.labels.team}" }
  }
  respond { body = "in" }
}
`

// key runs sidegate key on a gateway: what it prints on stdout, and on stderr.
func (g *gateway) key(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append(append([]string{"key"}, args...), "-config", filepath.Join(g.dir, "etc"))...)
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(o.String()), strings.TrimSpace(e.String()), cmd.ProcessState.ExitCode()
}

// create makes a key by command.
func (g *gateway) create(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := g.key(t, append([]string{"create"}, args...)...)
	if code != 0 || !strings.HasPrefix(out, "sg_") || strings.Contains(out, "\n") {
		t.Fatalf("key create %q (%d): %q, %q", args, code, out, errs)
	}
	return out
}

// id names a key.
func id(key string) string { return keyHash(key)[:12] }

// opens is what a key gets: the status, and whose it is.
func (g *gateway) opens(t *testing.T, c protocolClient, key string) (int, string) {
	t.Helper()
	resp, _ := send(t, c, c.scheme+"://keys.test/", "X-Api-Key: "+key)
	return resp.StatusCode, resp.Header.Get("X-Consumer")
}

// become waits until a key gets a status, and for no longer than is promised.
func (g *gateway) become(t *testing.T, what, key string, want int) {
	t.Helper()
	c := g.clients(t)[0]
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		got, _ := g.opens(t, c, key)
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: status %d, want %d", what, got, want)
		}
	}
}

// TestKeyCommand: a key that was made by command opens over each protocol at once,
// and doesn't when it is over, whatever happens to the process.
func TestKeyCommand(t *testing.T) {
	g := newGateway(t, keysConfig).start(t)
	key, ended := g.create(t, "acme"), g.create(t, "acme", "-expires", "1s")
	rotated := g.create(t, "acme", "-expires", "90d")
	out, errs, code := g.key(t, "rotate", id(rotated), "-overlap", "1h", "-json")
	var fresh struct {
		Key, ID          string
		Created, Expires time.Time
		Replaces         struct{ ID string }
	}
	if err := json.Unmarshal([]byte(out), &fresh); err != nil || code != 0 || fresh.ID != id(fresh.Key) || fresh.Replaces.ID != id(rotated) {
		t.Fatalf("rotate (%d): %s %s", code, out, errs)
	}
	if lasts := fresh.Expires.Sub(fresh.Created); lasts != 90*24*time.Hour {
		t.Errorf("a key in the place of one of 90 days lasts %v", lasts)
	}
	g.become(t, "a key that ends", ended, 401)
	for _, c := range g.clients(t) {
		t.Run(c.name, func(t *testing.T) {
			revoked := g.create(t, "acme")
			for what, k := range map[string]string{"new": key, "to be revoked": revoked, "rotated": rotated, "in its place": fresh.Key} {
				if code, who := g.opens(t, c, k); code != 200 || who != "acme/gold/" {
					t.Errorf("%s: %d, %q", what, code, who)
				}
			}
			if out, errs, code := g.key(t, "revoke", id(revoked)); code != 0 || out != fmt.Sprintf("key %s of consumer \"acme\" is revoked", id(revoked)) {
				t.Errorf("revoke (%d): %s %s", code, out, errs)
			}
			for what, k := range map[string]string{"revoked": revoked, "expired": ended, "nobody's": key + "x", "a hash": keyHash(key), "an id": id(key)} {
				resp, body := send(t, c, c.scheme+"://keys.test/?key="+k)
				wantProblem(t, resp, body, 401, "unauthenticated")
				if strings.Contains(body, what) {
					t.Errorf("the client is told why: %s", body)
				}
			}
		})
	}
	g.logged(t, "a revoked key", func(l logLine) bool {
		return l.Status == 401 && strings.Contains(l.Error, `of consumer "acme", revoked 20`)
	})
	g.logged(t, "an expired key", func(l logLine) bool {
		return l.Status == 401 && strings.HasPrefix(l.Error, "unauthenticated: key "+id(ended)+` of consumer "acme", expired 20`)
	})
	g.logged(t, "an unknown key", func(l logLine) bool { return l.Status == 401 && l.Error == "unauthenticated: unknown key" })

	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"create", "acne"}, `there is no consumer "acne". Did you mean "acme"?`},
		{[]string{"create", "acme", "-expires", "soon"}, `expires: "soon" isn't how long a key lasts, such as 90d or 12h, a day such as 2027-06-30, or never`},
		{[]string{"create", "acme", "-expires", "2020-01-01"}, "expires: 2020-01-01 isn't in the future"},
		{[]string{"create"}, "accepts 1 arg(s), received 0"},
		{[]string{"list", "umbrella"}, `there is no consumer "umbrella"`},
		{[]string{"revoke", "x"}, `"x" isn't the id of a key`},
		{[]string{"revoke", key}, "isn't the id of a key"},
		{[]string{"revoke", "0123456789ab"}, "there is no key 0123456789ab; sidegate key list shows which there are"},
		{[]string{"rotate", id(ended)}, "the key has expired already"},
		{[]string{"rotate", id(key), "-overlap", "long"}, `overlap: "long" isn't how long both keys work`},
		{[]string{"rotate", "0123456789ab"}, "there is no key 0123456789ab"},
	} {
		out, errs, code := g.key(t, tt.args...)
		if code == 0 || out != "" || !strings.Contains(errs, tt.want) {
			t.Errorf("key %q (%d): %q, %q, want %q", tt.args, code, out, errs, tt.want)
		}
		if strings.Contains(errs, key) && tt.args[1] != key {
			t.Errorf("key %q shows a key", tt.args)
		}
	}
	revoked := g.create(t, "acme")
	_, _, _ = g.key(t, "revoke", id(revoked)[:8]) // the beginning is enough
	if _, errs, code := g.key(t, "revoke", id(revoked)); code == 0 || !strings.Contains(errs, "is revoked already, since ") {
		t.Errorf("revoked again (%d): %s", code, errs)
	}
	if _, errs, code := g.key(t, "rotate", id(revoked)); code == 0 || !strings.Contains(errs, "the key is revoked already") {
		t.Errorf("a revoked one rotated (%d): %s", code, errs)
	}
	out, _, _ = g.key(t, "list")
	for _, want := range []string{"CONSUMER  ID", "acme      " + id(key), "revoked 20", "expired", "active", "state_dir"} {
		if !strings.Contains(out, want) {
			t.Errorf("list: no %q in\n%s", want, out)
		}
	}
	for k, want := range map[string]string{
		key:     fmt.Sprintf("admits the consumer %q (key %s of consumer %q)", "acme", id(key), "acme"),
		revoked: fmt.Sprintf("refuses: unauthenticated: key %s of consumer %q, revoked 20", id(revoked), "acme"),
		ended:   fmt.Sprintf("refuses: unauthenticated: key %s of consumer %q, expired 20", id(ended), "acme"),
		"none":  "unknown key (no consumer has a key " + id("none"),
	} {
		if out, _ := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "-header", "X-API-Key: "+k, "https://keys.test/"); !strings.Contains(out, want) {
			t.Errorf("explain: no %q in\n%s", want, out)
		}
	}

	// Killed, it knows all of it when it starts again; and the file has no key.
	g.stop(syscall.SIGKILL)
	file := filepath.Join(g.dir, "state", "keys.jsonl")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := run(t, "explain", "-config", filepath.Join(g.dir, "etc"), "-header", "X-API-Key: "+key, "https://keys.test/"); !strings.Contains(out, "admits") {
		t.Errorf("explain without a gateway:\n%s", out)
	}
	log := g.log.String()
	g.start(t)
	c := g.clients(t)[0]
	for k, want := range map[string]int{key: 200, fresh.Key: 200, rotated: 200, revoked: 401, ended: 401} {
		if got, _ := g.opens(t, c, k); got != want {
			t.Errorf("after the restart key %s gets %d, want %d", id(k), got, want)
		}
	}
	all := string(text) + log + g.log.String()
	for _, k := range []string{key, fresh.Key, rotated, revoked, ended} {
		if strings.Contains(all, k) {
			t.Errorf("key %s stands in the file or the log", id(k))
		}
	}
}

// api asks the admin API through the unix socket.
func (g *gateway) api(method, path, contentType, body string) (int, string, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(g.dir, "state", "admin.sock"))
	}}}
	return askAs(client, method, "http://sidegate"+path, contentType, body)
}

func askAs(c *http.Client, method, url, contentType, body string, fields ...string) (int, string, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Set(name, value)
	}
	resp, err := c.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// TestKeysSurviveKill: whatever key was shown to somebody is there after a kill
// in the middle of writing, and a file is never half of one.
func TestKeysSurviveKill(t *testing.T) {
	g := newGateway(t, keysConfig).start(t)
	var mu sync.Mutex
	var shown []string
	revoked := map[string]bool{}
	for round := range 4 {
		var wg sync.WaitGroup
		enough := make(chan struct{})
		var once sync.Once
		for i := range 3 {
			wg.Go(func() {
				for n := 1; ; n++ {
					code, text, err := g.api("POST", "/api/keys?consumer=acme", "", "")
					var k struct{ Key, ID string }
					if err != nil || code != 200 || json.Unmarshal([]byte(text), &k) != nil {
						return // killed
					}
					mu.Lock()
					shown = append(shown, k.Key)
					mu.Unlock()
					if i == 0 && n%2 == 0 {
						if code, _, err := g.api("DELETE", "/api/keys/"+k.ID, "", ""); err == nil && code == 200 {
							mu.Lock()
							revoked[k.Key] = true
							mu.Unlock()
						}
					}
					if n == 4+round {
						once.Do(func() { close(enough) })
					}
				}
			})
		}
		<-enough
		g.signal(syscall.SIGKILL)
		<-g.done
		wg.Wait()
		g.start(t)
	}
	c := g.clients(t)[0]
	unclear := 0 // the answer to the revocation was lost
	for _, k := range shown {
		switch got, _ := g.opens(t, c, k); {
		case revoked[k] && got != 401, got != 200 && got != 401:
			t.Errorf("key %s gets %d, revoked: %v", id(k), got, revoked[k])
		case !revoked[k] && got == 401:
			unclear++
		}
	}
	if len(shown) < 20 || unclear > 4 {
		t.Errorf("%d keys, %d of them revoked though nobody was told", len(shown), unclear)
	}
	left, err := filepath.Glob(filepath.Join(g.dir, "state", ".keys-*"))
	if err != nil || len(left) > 4 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestKeysOfFleet: a key that one node made works on the other, and doesn't when
// one has revoked it; without Consul all goes on, over a restart, too.
func TestKeysOfFleet(t *testing.T) {
	a := newAgent(t)
	config := fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port) + keysConfig
	nodes := []*gateway{newGateway(t, config).start(t), newGateway(t, config).start(t)}
	put := func(key, text string) {
		t.Helper()
		if _, err := a.do("PUT", "/v1/kv/sidegate/"+key, text); err != nil {
			t.Fatal(err)
		}
	}
	put("consumers/umbrella", "consumer \"umbrella\" {\n  plan = \"gold\"\n  labels = { team = \"ops\" }\n}")
	put("consumers/acme", `consumer "acme" { labels = { team = "thieves" } }`)
	put("consumers/bad", `consumer "bad" { plan = "golf" }`)
	put("consumers/worse", `consumer "worse" {`)
	eventually(t, "what is wrong in KV is told", func() error {
		text, err := g0(nodes).get("/api/status")
		for _, want := range []string{"there is no plan \\\"golf\\\"", "KV sidegate/consumers/worse", "stands in the configuration's files, too"} {
			if err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("no %q in %s", want, text)
			}
		}
		return err
	})
	for i, g := range nodes {
		eventually(t, "KV's consumer", func() error {
			code, text, err := g.api("GET", "/api/consumers/umbrella", "", "")
			if err == nil && code != 200 {
				err = fmt.Errorf("node %d: %d %s", i, code, text)
			}
			return err
		})
	}
	mine, theirs := nodes[0].create(t, "acme"), nodes[1].create(t, "umbrella", "-expires", "1h")
	for _, k := range []string{mine, theirs} {
		for _, g := range nodes {
			g.become(t, "made on another node", k, 200)
		}
	}
	if got, who := nodes[0].opens(t, nodes[0].clients(t)[2], theirs); got != 200 || who != "umbrella/gold/ops" {
		t.Errorf("%d, %q", got, who)
	}
	if text, err := a.do("GET", "/v1/kv/?recurse&keys", nil); err != nil || !strings.Contains(text, `"sidegate-keys/acme"`) || strings.Contains(text, mine) {
		t.Errorf("in Consul: %s %v", text, err)
	}
	gone := nodes[1].create(t, "acme")
	nodes[0].become(t, "to be revoked", gone, 200)
	if out, errs, code := nodes[0].key(t, "revoke", id(gone)); code != 0 {
		t.Fatalf("revoke: %s %s", out, errs)
	}
	for _, g := range nodes {
		g.become(t, "revoked on one node", gone, 401)
	}
	if _, errs, code := nodes[1].key(t, "revoke", id(gone)); code == 0 || !strings.Contains(errs, "is revoked already") {
		t.Errorf("revoked again: %s", errs)
	}
	idle := newGateway(t, config) // it isn't started
	if out, _ := run(t, "explain", "-config", filepath.Join(idle.dir, "etc"), "-header", "X-API-Key: "+theirs, "https://keys.test/"); !strings.Contains(out, `admits the consumer "umbrella" (key `+id(theirs)) {
		t.Errorf("explain without a gateway:\n%s", out)
	}
	// Many at once, on both: each change is kept.
	var wg sync.WaitGroup
	made := make([][]string, 4)
	for i := range made {
		wg.Go(func() {
			for range 5 {
				code, text, err := nodes[i%2].api("POST", "/api/keys?consumer=acme", "", "")
				var k struct{ Key string }
				if err != nil || code != 200 || json.Unmarshal([]byte(text), &k) != nil {
					t.Errorf("node %d: %d %s %v", i%2, code, text, err)
					return
				}
				made[i] = append(made[i], k.Key)
			}
		})
	}
	wg.Wait()
	for _, list := range made {
		for _, k := range list {
			for _, g := range nodes {
				g.become(t, "made among many", k, 200)
			}
		}
	}

	// A record that can't be read puts its own keys out of use, and no others.
	if _, err := a.do("PUT", "/v1/kv/sidegate-keys/broken", "{"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a broken record is told", func() error {
		text, err := nodes[0].get("/api/status")
		if err == nil && !strings.Contains(text, "KV sidegate-keys/broken") {
			err = fmt.Errorf("not in %s", text)
		}
		return err
	})
	// What the last change wrote is on the disk before Consul goes.
	eventually(t, "snapshot", func() error {
		list, err := filepath.Glob(filepath.Join(nodes[1].dir, "state", "snapshots", "*"))
		for _, path := range list {
			if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), `"key":"keys"`) && strings.Contains(string(text), `"broken"`) {
				return nil
			}
		}
		return fmt.Errorf("not yet in %v (%v)", list, err)
	})
	a.stop(syscall.SIGKILL)
	if _, errs, code := nodes[0].key(t, "create", "acme"); code == 0 || !strings.Contains(errs, "nothing was changed") {
		t.Errorf("created without Consul (%d): %s", code, errs)
	}
	g := nodes[1]
	g.stop(syscall.SIGKILL)
	g.start(t)
	for _, g := range nodes {
		for k, want := range map[string]int{mine: 200, theirs: 200, gone: 401} {
			g.become(t, "without Consul", k, want)
		}
	}
	out, _ := run(t, "status", "-config", filepath.Join(g.dir, "etc"))
	if !strings.Contains(out, "LAST KNOWN") {
		t.Errorf("status says nothing of the age:\n%s", out)
	}
	if text, err := g.get("/metrics"); err != nil || !strings.Contains(text, `sidegate_api_keys{origin="consul"} 23`) || strings.Contains(text, "sidegate_consumers_age_seconds 0\n") {
		t.Errorf("metrics (%v) lack the keys' count or age", err)
	}
	// Revoked without Consul: here at once and over a kill, elsewhere when it is back.
	out, errs, code := g.key(t, "revoke", id(mine))
	if code != 0 || !strings.Contains(errs, "revoked on this node; Consul doesn't take it") {
		t.Errorf("revoked without Consul (%d): %s %s", code, out, errs)
	}
	g.become(t, "revoked here", mine, 401)
	nodes[0].become(t, "not heard of elsewhere", mine, 200)
	g.stop(syscall.SIGKILL)
	g.start(t)
	g.become(t, "revoked here, after a kill", mine, 401)
}

func g0(nodes []*gateway) *gateway { return nodes[0] }

// TestRevokedWhileConsulIsAway: a revocation that Consul missed gets there.
func TestRevokedWhileConsulIsAway(t *testing.T) {
	a := newAgent(t)
	a.args = append(a.args, "-data-dir", t.TempDir()) // over a restart
	for i, arg := range a.args {
		if arg == "-dev" {
			a.args = append(append(append([]string{}, a.args[:i]...), "-server", "-bootstrap-expect=1"), a.args[i+1:]...)
			break
		}
	}
	a.stop(syscall.SIGKILL)
	a.start(t)
	config := fmt.Sprintf("consul { address = \"127.0.0.1:%d\" }\n", a.port) + keysConfig
	nodes := []*gateway{newGateway(t, config).start(t), newGateway(t, config).start(t)}
	key := nodes[0].create(t, "acme")
	nodes[1].become(t, "made elsewhere", key, 200)
	a.stop(syscall.SIGTERM)
	if out, errs, code := nodes[0].key(t, "revoke", id(key)); code != 0 || !strings.Contains(errs, "the other nodes learn of it") {
		t.Fatalf("revoke (%d): %s %s", code, out, errs)
	}
	nodes[0].become(t, "revoked here", key, 401)
	if text, err := nodes[0].get("/metrics"); err != nil || !strings.Contains(text, "sidegate_api_key_revocations_untold 1\n") {
		t.Errorf("metrics (%v) don't say that a revocation is untold", err)
	}
	a.start(t)
	eventually(t, "revoked elsewhere", func() error {
		if got, _ := nodes[1].opens(t, nodes[1].clients(t)[0], key); got != 401 {
			return fmt.Errorf("status %d", got)
		}
		return nil
	})
	eventually(t, "nothing untold", func() error {
		text, err := nodes[0].get("/metrics")
		if err == nil && !strings.Contains(text, "sidegate_api_key_revocations_untold 0\n") {
			err = fmt.Errorf("still untold")
		}
		return err
	})
	if got, _ := nodes[0].opens(t, nodes[0].clients(t)[0], key); got != 401 {
		t.Errorf("status %d when Consul is back", got)
	}
}

// TestAdminConsumers: who has the token manages consumers and their keys, and
// nobody else does.
func TestAdminConsumers(t *testing.T) {
	g := newGateway(t, keysConfig)
	text, err := os.ReadFile(g.config())
	if err != nil {
		t.Fatal(err)
	}
	const token = "t0ken-of-the-admin"
	write(t, g.config(), strings.Replace(string(text), "admin { ", "admin {\n  token = \""+token+"\"\n  ", 1))
	g.config()
	write(t, g.config(), strings.Replace(readFile(t, g.config()), `" }`, "\"\n}", 1))
	g.launch(t)
	base := fmt.Sprintf("http://127.0.0.1:%d", g.admin)
	do := func(method, path, contentType, body string) (int, string) {
		t.Helper()
		code, text, err := askAs(http.DefaultClient, method, base+path, contentType, body, "Authorization: Bearer "+token)
		if err != nil {
			t.Fatal(err)
		}
		return code, text
	}
	eventually(t, "gateway ready", func() error {
		_, _, err := askAs(http.DefaultClient, "GET", base+"/readyz", "", "")
		return err
	})
	for _, tt := range []struct{ method, path string }{{"PUT", "/api/consumers/x"}, {"DELETE", "/api/consumers/acme"}, {"POST", "/api/keys?consumer=acme"}, {"DELETE", "/api/keys/0123"}, {"GET", "/api/keys"}, {"GET", "/api/consumers"}} {
		code, text, err := askAs(http.DefaultClient, tt.method, base+tt.path, "", "")
		if err != nil || code != 401 {
			t.Errorf("%s %s without the token: %d %s %v", tt.method, tt.path, code, text, err)
		}
	}
	const hcl, js = "text/plain", "application/json"
	for _, tt := range []struct {
		method, path, kind, body string
		code                     int
		want                     string
	}{
		{"PUT", "/api/consumers/umbrella", js, `{"plan": "gold", "priority": "low", "use": ["reader"], "labels": {"team": "ops"}, "jwt": [{"subject": "u"}], "mtls": [{"san": "u.test"}]}`, 200, `"plan": "gold"`},
		{"PUT", "/api/consumers/a%2Fb%20c", js, `{}`, 400, `the name "a/b c" of the consumer has a character`},
		{"PUT", "/api/consumers/a%2Fb", hcl, "consumer \"a/b\" {\n  labels = { team = \"x\" }\n}", 200, `"name": "a/b"`},
		{"PUT", "/api/consumers/wrong", js, `{"plan": "golf"}`, 409, `there is no plan "golf"`},
		{"PUT", "/api/consumers/wrong", js, `{"use": ["raeder"]}`, 409, `there is no policy "raeder" that consumers may use. Did you mean "reader"?`},
		{"PUT", "/api/consumers/wrong", js, `{"priority": "urgent"}`, 400, "priority"},
		{"PUT", "/api/consumers/wrong", js, `{"plna": "gold"}`, 400, "unknown field"},
		{"PUT", "/api/consumers/wrong", hcl, "consumer \"other\" {}", 400, "one block, consumer \"wrong\""},
		{"PUT", "/api/consumers/wrong", hcl, "consumer \"wrong\" {\n  plna = \"gold\"\n}", 400, `Did you mean "plan"?`},
		{"PUT", "/api/consumers/wrong", hcl, "consumer \"wrong\" {\n  mtls { san = \"u.test\" }\n}", 409, `consumer "umbrella" has the same one`},
		{"PUT", "/api/consumers/wrong", hcl, "route \"r\" {}", 400, "unknown block"},
		{"PUT", "/api/consumers/wrong", hcl, "", 400, "the body is empty"},
		{"PUT", "/api/consumers/wrong", hcl, strings.Repeat("#", 600<<10), 413, "larger than"},
		{"PUT", "/api/consumers/acme", js, `{}`, 409, "sidegate.hcl:"},
		{"DELETE", "/api/consumers/acme", "", "", 409, "change it there"},
		{"DELETE", "/api/consumers/wrong", "", "", 404, "there is no consumer"},
		{"GET", "/api/consumers/umbrela", "", "", 404, `Did you mean "umbrella"?`},
		{"GET", "/api/consumers", "", "", 200, `"name": "umbrella"`},
		{"GET", "/api/consumers?limit=0", "", "", 400, "limit"},
		{"GET", "/api/keys?limit=x", "", "", 400, "limit"},
		{"POST", "/api/bans?address=192.0.2.1&for=1h", "", "", 200, `"client": "192.0.2.1"`},
	} {
		if code, text := do(tt.method, tt.path, tt.kind, tt.body); code != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("%s %s: %d %s, want %d with %q", tt.method, tt.path, code, text, tt.code, tt.want)
		}
	}
	var secrets []string
	for i := range 5 {
		name := []string{"umbrella", "acme", "a/b"}[i%3]
		code, text := do("POST", "/api/keys?"+url.Values{"consumer": {name}, "expires": {"30d"}}.Encode(), "", "")
		var k struct{ Key string }
		if err := json.Unmarshal([]byte(text), &k); err != nil || code != 200 {
			t.Fatalf("%d %s", code, text)
		}
		secrets = append(secrets, k.Key)
	}
	c := g.clients(t)[1]
	if code, who := g.opens(t, c, secrets[0]); code != 200 || who != "umbrella/gold/ops" {
		t.Errorf("%d %q", code, who)
	}
	// Pages of two, each key once.
	seen, after := "", ""
	for pages := 0; pages < 10; pages++ {
		_, text := do("GET", "/api/keys?limit=2&after="+url.QueryEscape(after), "", "")
		var page struct {
			Keys []struct{ ID, Consumer, State string }
			Next string
		}
		if err := json.Unmarshal([]byte(text), &page); err != nil || len(page.Keys) > 2 {
			t.Fatalf("%s %v", text, err)
		}
		for _, k := range page.Keys {
			seen += k.Consumer + " " + k.State + ";"
		}
		for _, s := range secrets {
			if strings.Contains(text, s) || strings.Contains(text, keyHash(s)) {
				t.Error("a key, or its hash, is in a list")
			}
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if want := "a/b active;acme active;acme active;umbrella active;umbrella active;"; seen != want {
		t.Errorf("pages: %s, want %s", seen, want)
	}
	_, first := do("GET", "/api/consumers?limit=2", "", "")
	_, second := do("GET", "/api/consumers?limit=2&after=acme", "", "")
	if !strings.Contains(first, `"next": "acme"`) || !strings.Contains(second, "umbrella") || strings.Contains(second, `"acme"`) || strings.Contains(second, "next") {
		t.Errorf("pages: %s %s", first, second)
	}
	// Another plan holds at once, and keys stay; deleted, they are nobody's.
	if code, text := do("PUT", "/api/consumers/umbrella", js, `{"labels": {"team": "new"}}`); code != 200 {
		t.Errorf("%d %s", code, text)
	}
	if code, who := g.opens(t, c, secrets[0]); code != 200 || who != "umbrella//new" {
		t.Errorf("%d %q", code, who)
	}
	g.stop(syscall.SIGKILL)
	g.launch(t)
	eventually(t, "gateway ready", func() error {
		code, _, err := askAs(http.DefaultClient, "GET", base+"/readyz", "", "")
		if err == nil && code != 200 {
			err = fmt.Errorf("%d", code)
		}
		return err
	})
	c = g.clients(t)[1]
	if code, who := g.opens(t, c, secrets[0]); code != 200 || who != "umbrella//new" {
		t.Errorf("after the restart: %d %q", code, who)
	}
	if code, text := do("DELETE", "/api/consumers/umbrella", "", ""); code != 200 {
		t.Errorf("%d %s", code, text)
	}
	if code, _ := g.opens(t, c, secrets[0]); code != 401 {
		t.Errorf("the key of a deleted consumer: %d", code)
	}
	if _, text := do("GET", "/api/keys", "", ""); strings.Contains(text, "umbrella") {
		t.Errorf("keys of a deleted consumer: %s", text)
	}
	if strings.Contains(g.log.String(), secrets[0]) {
		t.Error("a key stands in the log")
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestKeysWithoutPermission: a token that may not read keys costs the keys that
// are there, and nothing else; what is missing is said.
func TestKeysWithoutPermission(t *testing.T) {
	a := newAgent(t)
	a.stop(syscall.SIGKILL)
	acl := write(t, filepath.Join(t.TempDir(), "acl.hcl"), `acl {
  enabled        = true
  default_policy = "deny"
  tokens { initial_management = "root" }
}`)
	a.args = append(a.args, "-config-file", acl)
	a.start(t)
	do := func(path, body string) string {
		t.Helper()
		var code int
		var text string
		eventually(t, path, func() (err error) { // ACLs take a moment
			code, text, err = askAs(http.DefaultClient, "PUT", fmt.Sprintf("http://127.0.0.1:%d%s", a.port, path), "", body, "X-Consul-Token: root")
			if err == nil && code != 200 {
				err = fmt.Errorf("%d %s", code, text)
			}
			return err
		})
		return text
	}
	token := func(name, rules string) string {
		t.Helper()
		rule, _ := json.Marshal(rules)
		do("/v1/acl/policy", fmt.Sprintf(`{"Name": %q, "Rules": %s}`, name, rule))
		var out struct{ SecretID string }
		if err := json.Unmarshal([]byte(do("/v1/acl/token", fmt.Sprintf(`{"Policies": [{"Name": %q}]}`, name))), &out); err != nil || out.SecretID == "" {
			t.Fatal(err)
		}
		return out.SecretID
	}
	do("/v1/kv/sidegate/consumers/umbrella", `consumer "umbrella" {}`)
	const rest = "key_prefix \"sidegate/\" {\n  policy = \"read\"\n}\nnode_prefix \"\" {\n  policy = \"read\"\n}\nservice_prefix \"\" {\n  policy = \"read\"\n}\n"
	start := func(token string) *gateway {
		return newGateway(t, fmt.Sprintf("consul {\n  address = \"127.0.0.1:%d\"\n  token = %q\n}\n", a.port, token)+
			strings.Replace(keysConfig, "  plan = \"gold\"\n", fmt.Sprintf("  plan = \"gold\"\n  api_key { sha256 = %q }\n", keyHash(acmeKey)), 1)).start(t)
	}
	may := start(token("may", rest+"key_prefix \"sidegate-keys/\" {\n  policy = \"write\"\n}\n"))
	key := may.create(t, "umbrella")
	may.become(t, "with the right", key, 200)

	g := start(token("may-not", rest))
	g.become(t, "a key of a file", acmeKey, 200)
	g.become(t, "a key that nobody may read", key, 401)
	if _, errs, code := g.key(t, "create", "umbrella"); code == 0 || !strings.Contains(errs, "what keys there are in Consul isn't known: ") || !strings.Contains(errs, "token") {
		t.Errorf("create (%d): %s", code, errs)
	}
	if out, _ := run(t, "status", "-config", filepath.Join(g.dir, "etc")); !strings.Contains(out, "sidegate-keys/") {
		t.Errorf("status doesn't say what the token may not:\n%s", out)
	}
	reader := start(token("reads", rest+"key_prefix \"sidegate-keys/\" {\n  policy = \"read\"\n}\n"))
	reader.become(t, "with the right to read", key, 200)
	if _, errs, code := reader.key(t, "create", "umbrella"); code == 0 || !strings.Contains(errs, "nothing was changed: ") || !strings.Contains(errs, "403") {
		t.Errorf("create (%d): %s", code, errs)
	}
}
