package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc/oidctest"
)

// atProvider waits for the provider's page.
func (b *tab) atProvider() {
	b.t.Helper()
	b.await("the provider's page", "document.getElementById('user') != null")
}

// logIn fills in the provider's page.
func (b *tab) logIn(user string) {
	b.t.Helper()
	b.atProvider()
	if _, err := b.run("document.getElementById('user').value = " + quote(user) + "; document.getElementById('go').click()"); err != nil {
		b.t.Fatal(err)
	}
}

// at waits for an address whose page has a text.
func (b *tab) at(url, text string) {
	b.t.Helper()
	b.await(url, "location.href == "+quote(url)+" && document.documentElement.innerText.includes("+quote(text)+")")
}

// TestLoginInBrowser: a real browser logs in and out, and what it shouldn't do it
// can't.
func TestLoginInBrowser(t *testing.T) {
	p := oidctest.New(t)
	g := newGateway(t, loginConfig(t, p, ""))
	site := fmt.Sprintf("https://app.test:%d", g.https)
	p.Redirects(site + loginCallback)
	g.start(t)
	d := newDevtools(t, "app.test")
	const alice, bob = `"X-User":["alice"]`, `"X-User":["bob"]`
	b := d.person()

	// The page that was asked for comes after the login, and stays.
	b.open(site + "/app/deep?x=1&y=%2F")
	b.logIn("alice")
	b.at(site+"/app/deep?x=1&y=%2F", alice)
	b.call(b.session, "Page.reload", nil, nil)
	b.at(site+"/app/deep?x=1&y=%2F", alice)
	if n := p.Asked("authorization_code"); n != 1 {
		t.Errorf("logged in %d times", n)
	}
	if v, err := b.run("document.cookie"); err != nil || v != "" {
		t.Errorf("scripts see %v (%v)", v, err)
	}
	list := b.cookies(site + "/")
	if len(list) != 1 || list[0]["httpOnly"] != true || list[0]["secure"] != true || list[0]["sameSite"] != "Lax" || list[0]["domain"] != "app.test" || !strings.HasPrefix(list[0]["name"].(string), "__Host-sidegate-") {
		t.Fatalf("cookies %v", list)
	}
	if v, err := b.run("fetch('/app/api').then(r => r.status)"); err != nil || v != 200.0 {
		t.Errorf("a script's request: %v (%v)", v, err)
	}

	// A session that was changed is none; the provider still knows who it is.
	name, value := list[0]["name"].(string), list[0]["value"].(string)
	b.setCookie(site+"/", name, value[:40]+"AAAA"+value[44:])
	if v, err := b.run("fetch('/app/api').then(r => r.status)"); err != nil || v != 401.0 {
		t.Errorf("a script's request with a changed session: %v (%v)", v, err)
	}
	b.open(site + "/app/again")
	b.at(site+"/app/again", alice)
	if n := p.Asked("authorization_code"); n != 2 {
		t.Errorf("logged in %d times, one of them anew", n)
	}

	// Nor does an image in a page of this site.
	if v, err := b.run("new Promise(done => { const i = new Image(); i.onload = i.onerror = done; i.src = '/.sidegate/oidc/logout' }).then(() => fetch('/app/api')).then(r => r.status)"); err != nil || v != 200.0 {
		t.Errorf("after an image: %v (%v)", v, err)
	}

	// Another site can't log the user out, neither by a link nor by a form.
	b.open(p.URL + "/elsewhere")
	b.await("another site", "location.origin == "+quote(p.URL))
	for _, script := range []string{
		"location.href = " + quote(site+"/.sidegate/oidc/logout"),
		"(f => { f.method = 'post'; f.action = " + quote(site+"/.sidegate/oidc/logout") + "; document.body.append(f); f.submit() })(document.createElement('form'))",
	} {
		b.open(p.URL + "/elsewhere")
		b.await("another site", "location.origin == "+quote(p.URL))
		if _, err := b.run(script); err != nil {
			t.Fatal(err)
		}
		b.at(site+"/.sidegate/oidc/logout", "urn:sidegate:problem:forbidden")
	}
	b.open(site + "/app/still")
	b.at(site+"/app/still", alice)

	// Nor log him in as somebody else: the callback of another browser's login.
	other := d.person()
	other.open(site + "/app/bob")
	other.atProvider()
	v, err := other.run("location.href")
	if err != nil {
		t.Fatal(err)
	}
	forged := approve(t, v.(string), "bob")
	b.open(forged)
	b.await("a forged callback", "document.documentElement.innerText.includes('urn:sidegate:problem:forbidden')")
	b.open(site + "/app/still")
	b.at(site+"/app/still", alice)

	// Two tabs of one person, the later one first.
	one := other.another()
	other.open(site + "/app/first")
	one.open(site + "/app/second")
	one.logIn("bob")
	one.at(site+"/app/second", bob)
	other.logIn("bob")
	other.at(site+"/app/first", bob)

	// Logging out ends it here and at the provider, in all tabs, and not for others.
	if _, err := other.run("location.href = '/.sidegate/oidc/logout'"); err != nil {
		t.Fatal(err)
	}
	other.at(site+"/public/bye", "{")
	if list := other.cookies(site + "/"); len(list) != 0 {
		t.Errorf("after logging out: cookies %v", list)
	}
	if v, err := one.run("fetch('/app/api').then(r => r.status)"); err != nil || v != 401.0 {
		t.Errorf("the other tab's script: %v (%v)", v, err)
	}
	one.open(site + "/app/second")
	one.atProvider()
	b.call(b.session, "Page.reload", nil, nil)
	b.at(site+"/app/still", alice)
	if ended := p.Ended(); len(ended) != 1 || ended[0].Get("id_token_hint") == "" || ended[0].Get("client_id") != oidctest.Client {
		t.Errorf("the provider's ends of sessions: %v", ended)
	}

	// A refusal of the provider is one.
	one.logIn("nobody")
	one.await("a refusal", "document.documentElement.innerText.includes('urn:sidegate:problem:forbidden')")
	g.logged(t, "the refusal", func(l logLine) bool {
		return l.Status == 403 && l.Error == `forbidden: oidc: the provider answers "access_denied"`
	})
}
