package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

const adminToken = "t0ken-of-the-dashboard"

// admin sends to the admin address, with header fields.
func (g *gateway) request(t *testing.T, method, path, body string, fields ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", g.admin, path), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ": ")
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// TestDashboardLogin: with the token, and only so, a browser reads and changes.
func TestDashboardLogin(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(fresh))
	t.Cleanup(s.Close)
	g := newGateway(t, "")
	g.configure(t, dashboardConfig(t, s.Listener.Addr().String(), fmt.Sprintf("127.0.0.1:%d", ports(t, 4)[3])))
	g.token(t, adminToken)
	g.start(t)
	c := g.clients(t)[0]
	send(t, c, c.scheme+"://metered.test/", "X-Client: acme")
	send(t, c, c.scheme+"://kept.test/page")

	if resp, body := g.request(t, "GET", "/", ""); resp.StatusCode != 200 || !strings.Contains(body, "<html") || strings.Contains(resp.Header.Get("Content-Security-Policy"), "unsafe-inline") {
		t.Errorf("the page: %d %v", resp.StatusCode, resp.Header)
	}
	for _, path := range []string{"/api/overview", "/api/traffic", "/api/history", "/api/tail", "/api/services", "/api/config", "/metrics"} {
		if resp, _ := g.request(t, "GET", path, ""); resp.StatusCode != 401 {
			t.Errorf("%s without the token: %d", path, resp.StatusCode)
		}
	}

	p := g.openDashboard(t, newDevtools(t, "nobody.test"), "#/limits")
	p.await("a login", "document.querySelector('#token') === document.activeElement")
	p.shot("login")
	p.login("not-the-token")
	p.await("that it is wrong", has("isn't the admin token"))
	p.login(adminToken)
	p.await("the page that was asked for", has("header:X-Client=~"))
	list := p.cookies(p.base)
	if len(list) != 1 || list[0]["httpOnly"] != true || list[0]["sameSite"] != "Strict" || list[0]["secure"] != false || list[0]["expires"].(float64) <= 0 {
		t.Errorf("cookies %v", list)
	}
	cookie := fmt.Sprintf("Cookie: %s=%s", list[0]["name"], list[0]["value"])

	t.Run("changes", func(t *testing.T) {
		p.fill("[name=address]", "192.0.2.99")
		p.await("the ban", "[...document.querySelectorAll('tbody tr')].some(r => r.innerText.includes('192.0.2.99'))")
		p.click("[aria-label='Lift the ban of 192.0.2.99']")
		p.await("a question", "!!document.querySelector('dialog[open]') && !!document.activeElement.closest('dialog')")
		p.shot("question")
		p.press("Escape")
		p.await("no question", "!document.querySelector('dialog')")
		p.click("[aria-label='Lift the ban of 192.0.2.99']")
		p.click("dialog button[value=yes]")
		p.await("that it is lifted", "document.querySelector('.toast').innerText.includes('any more') && "+has("Nobody is banned"))
		p.click("[aria-label^='Reset route:metered']")
		p.click("dialog button[value=yes]")
		p.await("that nothing is used", has("0 of 3"))
		p.to("#/cache", "what is stored", has("Forget"))
		p.fill("[name=url]", "http://kept.test/*")
		p.await("that it is forgotten", "/^. answer/.test(document.querySelector('.toast').innerText)")
		p.to("#/configuration", "a reload", has("Load again"))
		p.click("main .card button.small")
		p.await("it was loaded", "document.querySelectorAll('.problems li').length >= 2")
		p.unharmed("changes")
	})
	t.Run("other sites", func(t *testing.T) {
		for _, tt := range []struct {
			name   string
			fields []string
			want   int
		}{
			{"another origin", []string{cookie, "Origin: http://evil.test"}, 403},
			{"another port of this host", []string{cookie, "Origin: http://127.0.0.1:1"}, 403},
			{"a page of another site", []string{cookie, "Sec-Fetch-Site: cross-site"}, 403},
			{"another site's subdomain", []string{cookie, "Sec-Fetch-Site: same-site", "Origin: http://127.0.0.1:1"}, 403},
			{"no origin of a page", []string{cookie, "Origin: null"}, 403},
			{"the page itself", []string{cookie, "Sec-Fetch-Site: same-origin"}, 200},
			{"no session", []string{"Sec-Fetch-Site: same-origin"}, 401},
			{"a session that never was", []string{"Cookie: sidegate_admin=0000", "Sec-Fetch-Site: same-origin"}, 401},
			{"a script with the token", []string{"Authorization: Bearer " + adminToken}, 200},
		} {
			if resp, body := g.request(t, "POST", "/api/bans?address=192.0.2.1&for=1h", "", tt.fields...); resp.StatusCode != tt.want {
				t.Errorf("%s: %d %s, want %d", tt.name, resp.StatusCode, body, tt.want)
			}
		}
		login := url.Values{"token": {adminToken}}.Encode()
		form := "Content-Type: application/x-www-form-urlencoded"
		if resp, _ := g.request(t, "POST", "/api/login", login, form, "Origin: http://evil.test"); resp.StatusCode != 403 {
			t.Errorf("a login by another site's page: %d", resp.StatusCode)
		}
		resp, _ := g.request(t, "POST", "/api/login", login, form, "X-Forwarded-Proto: https")
		if set := resp.Header.Get("Set-Cookie"); resp.StatusCode != 204 || !strings.Contains(set, "Secure") {
			t.Errorf("behind TLS: %d %q", resp.StatusCode, set)
		}
	})
	t.Run("logout", func(t *testing.T) {
		p.to("#/overview", "the overview", has("in all"))
		p.click(".side .foot button")
		p.await("a login", "!!document.querySelector('#token')")
		if resp, _ := g.request(t, "GET", "/api/overview", "", cookie); resp.StatusCode != 401 {
			t.Errorf("the session after its end: %d", resp.StatusCode)
		}
		p.unharmed("logout")
	})
	t.Run("guessing", func(t *testing.T) {
		waits := false
		for i := range 30 {
			resp, _ := g.request(t, "GET", "/api/overview", "", fmt.Sprintf("Authorization: Bearer guess-%d", i))
			if waits = resp.StatusCode == 429 && resp.Header.Get("Retry-After") != ""; waits {
				break
			}
			if resp.StatusCode != 401 {
				t.Fatalf("a wrong token: %d", resp.StatusCode)
			}
		}
		if !waits {
			t.Error("guessing goes on for ever")
		}
		p.login(adminToken)
		p.await("that one waits", has("wait a little"))
	})
}

func (p *dashboard) login(token string) {
	p.t.Helper()
	p.fill("#token", token)
}

// fill writes into a form's field, and sends the form.
func (p *dashboard) fill(selector, text string) {
	p.t.Helper()
	p.await(selector, "!!document.querySelector("+quote(selector)+")")
	if _, err := p.run(fmt.Sprintf("(f => { f.value = %s; f.form.requestSubmit(); })(document.querySelector(%s))", quote(text), quote(selector))); err != nil {
		p.t.Fatal(err)
	}
}

// click clicks on the first that is at a selector, once it is there.
func (p *dashboard) click(selector string) {
	p.t.Helper()
	p.await(selector, "!!document.querySelector("+quote(selector)+")")
	if _, err := p.run("document.querySelector(" + quote(selector) + ").click()"); err != nil {
		p.t.Fatal(err)
	}
}

// TestDashboardKeyboard: everything can be reached and done without a mouse, and one
// sees where one is.
func TestDashboardKeyboard(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(fresh))
	t.Cleanup(s.Close)
	g := newGateway(t, "")
	g.configure(t, dashboardConfig(t, s.Listener.Addr().String(), fmt.Sprintf("127.0.0.1:%d", ports(t, 4)[3])))
	g.start(t)
	p := g.openDashboard(t, newDevtools(t, "nobody.test"), "")
	p.await("the overview", has("in all"))
	at := func() string {
		t.Helper()
		v, err := p.run("(e => e == document.body ? '' : (e.ariaLabel || e.innerText || e.id).trim() + '|' + getComputedStyle(e).outlineStyle)(document.activeElement)")
		if err != nil {
			t.Fatal(err)
		}
		name, outline, _ := strings.Cut(v.(string), "|")
		if outline == "none" && name != "" {
			t.Errorf("%q has the focus, and nobody sees it", name)
		}
		return name
	}
	// until presses Tab until something of that name has the focus.
	until := func(name string) {
		t.Helper()
		for range 60 {
			p.press("Tab")
			if at() == name {
				return
			}
		}
		t.Fatalf("Tab never comes to %q", name)
	}
	p.press("Tab")
	if got := at(); got != "Skip to the content" {
		t.Errorf("the first is %q", got)
	}
	p.press("Enter")
	p.await("the content has the focus", "document.activeElement.id == 'main'")
	until("15 min")
	p.press("Tab")
	p.press("Enter")
	p.await("a day is chosen", "document.querySelector('[data-span=\"24h\"]').ariaPressed == 'true'")
	p.open(p.base + "#/overview")
	p.await("the overview again", has("in all"))
	until("Routes")
	p.press("Enter")
	p.await("the routes", "location.hash == '#/routes' && document.activeElement.id == 'main'")
	p.await("with rows", "document.querySelectorAll('tbody tr').length > 3")
	until("Route")
	p.press("Enter")
	p.await("sorted by name", "document.querySelector('th[aria-sort]').innerText.startsWith('Route') && document.querySelector('th').ariaSort == 'ascending'")
	p.press("Enter")
	p.await("turned round", "document.querySelector('th').ariaSort == 'descending' && document.activeElement.classList.contains('sort')")
	until("orders")
	p.press("Enter")
	p.await("a route", "location.hash == '#/routes/orders'")
	p.size(360, 740)
	p.open(p.base + "#/cache")
	p.await("the cache", has("No route has")+" || "+has("kept"))
	until("Menu")
	p.press("Enter")
	p.await("the menu", "document.querySelector('.menu').ariaExpanded == 'true' && document.querySelector('nav').offsetHeight > 100")
	p.shot("phone-menu")
	p.press("Escape")
	p.await("no menu", "document.querySelector('.menu').ariaExpanded == 'false' && document.activeElement.innerText == 'Menu'")
	p.size(1280, 900)
	p.scheme(true)
	p.open(p.base + "#/overview")
	p.await("the switch of colours", "document.querySelector('.side .foot button')?.innerText == 'Theme: auto'")
	dark := func(is bool) {
		t.Helper()
		p.await(fmt.Sprintf("dark: %v", is), fmt.Sprintf("(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128) == %v", is))
	}
	dark(false)
	p.click(".side .foot button")
	dark(false)
	p.click(".side .foot button")
	dark(true)
	p.call(p.session, "Page.reload", nil, nil)
	p.await("the choice is kept", "document.querySelector('.side .foot button')?.innerText == 'Theme: dark'")
	dark(true)
	p.click(".side .foot button")
	dark(false)
	p.scheme(false)
	dark(true)
	p.unharmed("keyboard")
}

// TestDashboardLarge: with 10,000 routes and 2,000 services, neither answers nor the
// page grow.
func TestDashboardLarge(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(fresh))
	t.Cleanup(s.Close)
	g := newGateway(t, "")
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "service \"s%04d\" { instances = [%q] }\n", i, s.Listener.Addr().String())
	}
	for i := range 10_000 {
		fmt.Fprintf(&b, "route \"r%05d\" {\n  hosts = [\"r%05[1]d.test\"]\n  service = \"s%04d\"\n}\n", i, i%2000)
	}
	g.configure(t, b.String())
	g.start(t)
	c := g.clients(t)[0]
	for i := range 300 {
		for range 1 + i%3 {
			send(t, c, fmt.Sprintf("%s://r%05d.test/", c.scheme, i*31))
		}
	}
	for path, most := range map[string]int{
		"/api/overview": 32 << 10, "/api/traffic?by=route": 160 << 10, "/api/services?limit=50": 160 << 10, "/api/history": 64 << 10, "/api/routes?limit=50": 64 << 10,
	} {
		if text, err := g.get(path); err != nil || len(text) > most {
			t.Errorf("%s has %d bytes (%v), want %d at most", path, len(text), err, most)
		}
	}
	p := g.openDashboard(t, newDevtools(t, "nobody.test"), "#/overview")
	p.await("all of them", has("2,000")+" && "+has("10,000"))
	small := func(where string) {
		t.Helper()
		v, err := p.run("document.querySelectorAll('*').length")
		if n, ok := v.(float64); err != nil || !ok || n > 2500 {
			t.Errorf("%s: %v elements (%v)", where, v, err)
		}
	}
	small("overview")
	p.to("#/routes", "a part of the routes", has("1 to 50 of 10,001"))
	p.await("the busiest first", "document.querySelector('tbody tr').lastElementChild.textContent == '3'")
	small("routes")
	p.shot("large-routes")
	p.click(".pager button:last-child")
	p.await("the next part", has("51 to 100 of 10,001"))
	if _, err := p.run("(f => { f.value = 'R09269'; f.dispatchEvent(new Event('input')); })(document.querySelector('input[type=search]'))"); err != nil {
		t.Fatal(err)
	}
	p.await("the one that was looked for", "document.querySelectorAll('tbody tr').length == 1 && "+has("r09269.test"))
	p.click("tbody a")
	p.await("its page", "location.hash == '#/routes/r09269' && "+has("3 in all"))
	p.to("#/services", "a part of the services", has("1 to 50 of 2,000"))
	small("services")
	p.to("#/certificates", "a part of the certificates", has("of 10,0")+" || "+has("certificates"))
	small("certificates")
	p.to("#/limits", "limits", has("Nobody is banned"))
	p.unharmed("large")
	out, code := run(t, "top", "-once", "-config", g.dir+"/etc")
	if lines := strings.Count(out, "\n"); code != 0 || lines < 300 || lines > 1100 {
		t.Errorf("top -once: exit code %d, %d lines", code, lines)
	}
}

// TestDashboardConsul: what services say of themselves in Consul is text.
func TestDashboardConsul(t *testing.T) {
	a := newAgent(t)
	s := httptest.NewServer(http.HandlerFunc(fresh))
	t.Cleanup(s.Close)
	var port int
	if _, err := fmt.Sscanf(s.Listener.Addr().String(), "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, fmt.Sprintf("consul {\n  address = \"127.0.0.1:%d\"\n  expose { hosts = [\"*.svc.test\"] }\n}\n", a.port))
	a.register(t, "web-"+evil, "web", port, "sidegate.host=web.svc.test", "sidegate.use="+evil, "sidegate.weight="+evil)
	a.register(t, "shop-"+evil, "shop", port, "sidegate.host=shop.svc.test")
	g.start(t)
	eventually(t, "the services", func() error {
		text, err := g.get("/api/services")
		if err == nil && !strings.Contains(text, "\"shop\"") {
			err = fmt.Errorf("only %s", text)
		}
		return err
	})
	p := g.openDashboard(t, newDevtools(t, "nobody.test"), "#/services/shop")
	p.await("the instance's id", has("onerror=hurt=1"))
	p.unharmed("service")
	p.to("#/configuration", "the problem", has("onerror=hurt=1"))
	p.unharmed("problems")
	p.shot("problems")
	p.to("#/overview", "Consul", has("watches"))
	a.stop(15)
	p.await("Consul is away", has("away"))
	p.await("and since when", "/Age\\s+\\d+ s since it answered/.test(document.querySelector('main').innerText)")
	p.unharmed("away")
	p.shot("consul-away")
}
