package e2e

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// dashboard is the page in a real browser.
type dashboard struct {
	*tab
	base string
}

// onlooker notes what goes wrong in a page before any script of its own runs.
const onlooker = `window.faults = [];
addEventListener("error", (e) => faults.push(String(e.message)));
addEventListener("unhandledrejection", (e) => faults.push("rejected: " + e.reason));
addEventListener("securitypolicyviolation", (e) => faults.push("policy: " + e.violatedDirective + " " + e.blockedURI));`

// openDashboard opens the page at an address of it, "#/routes" for one.
func (g *gateway) openDashboard(t *testing.T, d *devtools, at string) *dashboard {
	t.Helper()
	p := &dashboard{d.person(), fmt.Sprintf("http://127.0.0.1:%d/", g.admin)}
	p.call(p.session, "Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": onlooker}, nil)
	p.size(1280, 900)
	p.open(p.base + at)
	return p
}

func (p *dashboard) size(width, height int) {
	p.t.Helper()
	p.call(p.session, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
}

func (p *dashboard) scheme(light bool) {
	p.t.Helper()
	value := "dark"
	if light {
		value = "light"
	}
	p.call(p.session, "Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": value}}}, nil)
}

// to goes to a page of it, and waits for what is to be there.
func (p *dashboard) to(at, what, expression string) {
	p.t.Helper()
	if _, err := p.run("location.hash = " + quote(at)); err != nil {
		p.t.Fatal(err)
	}
	p.await(what, expression)
}

// has is an expression: the page's text has it.
func has(text string) string {
	return "document.querySelector('main').innerText.includes(" + quote(text) + ")"
}

// text is what is read at a selector.
func (p *dashboard) text(selector string) string {
	p.t.Helper()
	v, err := p.run("document.querySelector(" + quote(selector) + ")?.innerText ?? 'nothing there'")
	if err != nil {
		p.t.Fatal(err)
	}
	s, _ := v.(string)
	return s
}

// press presses a key, as a person does.
func (p *dashboard) press(key string) {
	p.t.Helper()
	code := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27}[key]
	text := map[string]string{"Enter": "\r"}[key]
	p.call(p.session, "Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}, nil)
	p.call(p.session, "Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code}, nil)
}

// unharmed fails the test if a script failed, the policy was violated, or what
// clients sent became more than text.
func (p *dashboard) unharmed(where string) {
	p.t.Helper()
	v, err := p.run("JSON.stringify([faults, window.hurt ?? 0, document.querySelectorAll('main img, main script, main svg, main iframe').length])")
	if err != nil || v != "[[],0,0]" {
		p.t.Errorf("%s: faults, harm, foreign elements: %v %v", where, v, err)
	}
}

// narrow fails the test if the page is wider than the window.
func (p *dashboard) narrow(where string) {
	p.t.Helper()
	v, err := p.run("document.documentElement.scrollWidth - innerWidth")
	if n, ok := v.(float64); err != nil || !ok || n > 0 {
		p.t.Errorf("%s: the page is %v pixels wider than the window (%v)", where, v, err)
	}
}

// shot keeps a picture for people in $SIDEGATE_SCREENSHOTS, if that is set.
func (p *dashboard) shot(name string) {
	p.t.Helper()
	dir := os.Getenv("SIDEGATE_SCREENSHOTS")
	if dir == "" {
		return
	}
	var r struct{ Data string }
	p.call(p.session, "Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": false}, &r)
	b, err := base64.StdEncoding.DecodeString(r.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), b, 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// evil is text that would run, were it taken for HTML anywhere.
const evil = `<img src=x onerror=hurt=1><script>hurt=1</script>`

// dashboardConfig is a gateway with something on each page.
func dashboardConfig(t *testing.T, good, bad string) string {
	t.Helper()
	return fmt.Sprintf(`
service "orders" {
  instances = [%[1]q, %[2]q]
  health_check {
    path     = "/"
    interval = "1s"
  }
}
service "broken" { instances = [%[2]q] }
consumer "acme" {
  plan = "gold"
  labels = { team = %[3]q }
  api_key { sha256 = "4bc24be37ac35b80d6d09ef8ad8ee7f8b3ebb8f8e8d2ed0cd5b5b0d9a8a4c2c1" }
}
plan "gold" { rate = "500/s" }
route "orders" {
  hosts   = ["orders.test"]
  service = "orders"
}
route "broken" {
  hosts   = ["broken.test"]
  service = "broken"
}
route "metered" {
  hosts   = ["metered.test"]
  service = "orders"
  quota {
    limit = "3/day"
    by    = "header:X-Client"
  }
  ban {
    after = 1000
    for   = "1h"
  }
}
route "kept" {
  hosts   = ["kept.test"]
  service = "orders"
  cache {}
}
route "answer" {
  hosts = ["answer.test"]
  respond { body = "ok" }
}
`, good, bad, evil)
}

// fresh is a service whose answers may be kept.
func fresh(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "max-age=600")
	_, _ = io.WriteString(w, "hello "+r.URL.Path)
}

// token makes the admin server have one.
func (g *gateway) token(t *testing.T, token string) {
	t.Helper()
	address := fmt.Sprintf("address = \"127.0.0.1:%d\"", g.admin)
	text := strings.Replace(readFile(t, g.config()), "admin { "+address+" }", fmt.Sprintf("admin {\n  %s\n  token = %q\n}", address, token), 1)
	write(t, g.config(), text)
}

// TestDashboardFigures: what the page says is what was sent, and nothing of it is
// more than text.
func TestDashboardFigures(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(fresh))
	t.Cleanup(s.Close)
	g := newGateway(t, "")
	g.configure(t, dashboardConfig(t, s.Listener.Addr().String(), fmt.Sprintf("127.0.0.1:%d", ports(t, 4)[3])))
	g.start(t)
	c := g.clients(t)[0]
	p := g.openDashboard(t, newDevtools(t, "nobody.test"), "#/tail")
	p.await("the tail is live", "document.querySelector('.badge.good')?.innerText.includes('live')")
	for range 37 {
		if resp, _ := send(t, c, c.scheme+"://orders.test/a", "User-Agent: "+evil); resp.StatusCode != 200 {
			t.Fatalf("orders: %d", resp.StatusCode)
		}
	}
	for i := range 5 {
		resp, _ := send(t, c, c.scheme+"://metered.test/", "X-Client: "+evil)
		if want := []int{200, 200, 200, 429, 429}[i]; resp.StatusCode != want {
			t.Fatalf("metered: %d, want %d", resp.StatusCode, want)
		}
		send(t, c, c.scheme+"://broken.test/?password=hidden")
		send(t, c, c.scheme+"://kept.test/")
	}
	send(t, c, c.scheme+"://orders.test/"+url.PathEscape(evil[:27])+"?q=hidden")
	send(t, c, c.scheme+"://nobody.test/")
	if out, code := run(t, "ban", "add", "192.0.2.66", "-config", filepath.Join(g.dir, "etc")); code != 0 {
		t.Fatal(out)
	}

	t.Run("tail", func(t *testing.T) {
		p.await("requests in the tail", has("nobody.test/")+" && "+has("quota-exceeded"))
		for _, hidden := range []string{"hidden", "password"} {
			if strings.Contains(p.text("main"), hidden) {
				t.Errorf("the tail shows %q of a query", hidden)
			}
		}
		if _, err := p.run("document.querySelectorAll('tbody button').forEach(b => b.click())"); err != nil {
			t.Fatal(err)
		}
		p.await("the requests' details, with the user agent as it came", has("Request id")+" && "+has(evil))
		p.unharmed("tail")
		p.shot("tail")
		p.to("#/tail?status=5xx", "another filter", "document.querySelector('.badge.good')?.innerText.includes('live')")
		send(t, c, c.scheme+"://orders.test/not-this")
		send(t, c, c.scheme+"://broken.test/but-this")
		p.await("the filter's request", has("broken.test/but-this"))
		if strings.Contains(p.text("tbody"), "not-this") {
			t.Errorf("status=5xx shows %s", p.text("tbody"))
		}
	})
	t.Run("routes", func(t *testing.T) {
		p.to("#/routes", "the routes", "document.querySelectorAll('tbody tr').length >= 6")
		for name, want := range map[string]string{"orders": "39", "metered": "5", "broken": "6", "kept": "5", "(no route)": "1"} {
			p.await("requests of "+name, fmt.Sprintf("[...document.querySelectorAll('tbody tr')].some(r => r.querySelector('a').textContent == %q && r.lastElementChild.textContent == %q)", name, want))
		}
		p.shot("routes")
		p.to("#/routes/metered", "a route", has("2xx 3 · 4xx 2"))
		p.await("where it is", has("metered.test"))
		p.unharmed("routes")
		p.shot("route")
	})
	t.Run("services", func(t *testing.T) {
		p.to("#/services", "the services", has("orders"))
		p.await("one is down", has("1 of 2"))
		p.unharmed("services")
		p.to("#/services/orders", "its instances", has("gets nothing"))
		p.await("its figures", has("in all"))
		p.unharmed("service")
		p.shot("service")
	})
	t.Run("limits", func(t *testing.T) {
		p.to("#/limits", "the ban", has("192.0.2.66"))
		p.await("what it used", has("3 of 3"))
		p.unharmed("limits")
		p.shot("limits")
		if strings.Contains(p.text("main"), "Lift") {
			t.Error("who has no token is offered to lift bans")
		}
	})
	t.Run("cache", func(t *testing.T) {
		p.to("#/cache", "the hit ratio", has("80 %"))
		p.unharmed("cache")
		p.shot("cache")
	})
	t.Run("consumers", func(t *testing.T) {
		p.to("#/consumers", "the consumer with its label, as it is", has("onerror=hurt=1"))
		p.unharmed("consumers")
		p.shot("consumers")
		p.to("#/consumers/acme", "one consumer", has("gold"))
		p.unharmed("consumer")
		p.to("#/charges", "charges", has("charge block"))
		p.to("#/certificates", "certificates", has("local"))
		p.unharmed("certificates")
		p.shot("certificates")
	})
	t.Run("configuration", func(t *testing.T) {
		before := readFile(t, g.config())
		write(t, g.config(), before+"route \"x\" {\n  hosts = [\"x.test\"]\n  service = "+quote(evil)+"\n  hostz = 1\n}\n")
		p.to("#/configuration", "why it was rejected", has("rejected")+" && "+has("sidegate.hcl:"))
		p.unharmed("configuration")
		p.shot("configuration")
		write(t, g.config(), before)
		p.await("it is in force again", "[...document.querySelectorAll('section')].find(s => s.innerText.includes('newest files')).hidden")
	})
	t.Run("overview", func(t *testing.T) {
		p.to("#/overview", "all requests", has("56 in all"))
		p.await("by class", has("2xx 47 · 4xx 3 · 5xx 6"))
		p.await("a chart that has something to draw", "document.querySelector('.chart [role=img]').ariaLabel.includes('2xx, 3xx 0')||document.querySelector('.chart [role=img]').ariaLabel.includes('/s')")
		p.unharmed("overview")
		p.shot("overview")
		p.scheme(false)
		p.shot("overview-dark")
	})
	t.Run("phone", func(t *testing.T) {
		p.size(360, 740)
		for _, at := range []string{"overview", "routes", "routes/metered", "services", "services/orders", "limits", "cache", "consumers", "consumers/acme", "certificates", "configuration", "tail", "charges"} {
			p.to("#/"+at, at, "document.querySelector('main h1') && !document.querySelector('main').innerText.includes('Waiting')")
			p.await(at+" has its data", "!document.querySelector('main .card') || document.querySelector('main').innerText.length > 60")
			p.narrow(at)
			p.shot("phone-" + strings.ReplaceAll(at, "/", "-"))
		}
		p.scheme(true)
		p.shot("phone-light")
	})
	t.Run("gone", func(t *testing.T) {
		p.size(1280, 900)
		p.to("#/overview", "the overview", has("in all"))
		g.process.stop(syscall.SIGKILL)
		p.await("that nothing answers", "document.querySelector('.banner').innerText.includes(\"hasn't answered for\")")
		p.shot("gone")
		g.start(t)
		p.await("that it answers again", "document.querySelector('.banner').hidden")
	})
}
