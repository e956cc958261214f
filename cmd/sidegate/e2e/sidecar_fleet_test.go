package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fleet is an authority with certificates that it has issued.
type fleet struct{ dir string }

func newFleet(t *testing.T, domain string, services ...string) fleet {
	t.Helper()
	real(t)
	f := fleet{filepath.Join(t.TempDir(), "ca")}
	if out, code := run(t, "ca", "init", "-trust-domain", domain, "-dir", f.dir); code != 0 {
		t.Fatal(out)
	}
	for _, s := range services {
		if out, code := run(t, "ca", "issue", "-dir", f.dir, "-service", s); code != 0 {
			t.Fatal(out)
		}
	}
	return f
}

// identity is the block of a service.
func (f fleet) identity(service string) string {
	return fmt.Sprintf("identity {\n  ca_file = \"%[1]s/ca.pem\"\n  cert_file = \"%[1]s/%[2]s.pem\"\n  key_file = \"%[1]s/%[2]s.key\"\n}\n", f.dir, service)
}

// client is one with a service's certificate; "": without.
func (f fleet) client(t *testing.T, service string) *http.Client {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true} // who is called isn't this side's matter
	if service != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(f.dir, service+".pem"), filepath.Join(f.dir, service+".key"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
}

// TestSidecarFleet: who has which certificate decides who reaches whom, in both
// directions.
func TestSidecarFleet(t *testing.T) {
	a := newAgent(t)
	ours := newFleet(t, "fleet.example", "orders", "billing", "edge", "shop")
	others := newFleet(t, "fleet.example", "orders") // the same names, by another authority
	p := ports(t, 6)
	orders := newApp(t, "orders", fmt.Sprintf("127.0.0.1:%d", p[0])).start()
	billing := newApp(t, "billing", fmt.Sprintf("127.0.0.1:%d", p[1])).start()
	shop := newApp(t, "shop", fmt.Sprintf("127.0.0.1:%d", p[2])).start()
	block := func(allow string) string {
		return ours.identity("billing") + fmt.Sprintf("sidecar \"billing\" {\n  app = %q\n  listen = \"127.0.0.1:0\"\n  allow = [%s]\n}", billing.address, allow)
	}
	b := startSidecar(t, a, block(`"orders"`))
	// Two in one process, each with an identity of its own.
	s := startSidecar(t, a, fmt.Sprintf(`
sidecar "orders" {
  app    = %q
  listen = "127.0.0.1:0"
  proxy  = "127.0.0.1:%d"
  %s
  upstream "billing" {
    listen = "127.0.0.1:%d"
  }
}
sidecar "shop" {
  app    = %q
  listen = "127.0.0.1:0"
  %s
  upstream "billing" {
    listen = "127.0.0.1:%d"
  }
}`, orders.address, p[3], ours.identity("orders"), p[4], shop.address, ours.identity("shop"), p[5]))
	at := a.registered(t, "billing")
	inOrders := a.registered(t, "orders")
	if name := at.Service.Meta["sidegate-identity"]; name != "spiffe://fleet.example/svc/billing" {
		t.Errorf("billing is registered as %q", name)
	}
	c := &http.Client{Timeout: 10 * time.Second}
	eventually(t, "orders calls billing", func() error {
		req, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/pay", p[4]), nil)
		if err != nil {
			return err
		}
		req.Header.Set("X-Forwarded-For", "203.0.113.7")
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 || !strings.Contains(string(text), `"App":"billing"`) || !strings.Contains(string(text), `"X-Forwarded-For":["203.0.113.7, `) {
			return fmt.Errorf("%s: %s", resp.Status, text)
		}
		return nil
	})
	if status, text := plain(t, fmt.Sprintf("127.0.0.1:%d", p[3]), "GET / HTTP/1.1\r\nHost: billing.service.consul\r\nConnection: close\r\n\r\n"); status != 200 || !strings.Contains(text, `"App":"billing"`) {
		t.Errorf("by name: %d %s", status, text)
	}

	served := billing.served.Load()
	refused := func(what, reason string, err error) {
		t.Helper()
		if n := billing.served.Load(); err == nil || n != served {
			t.Errorf("%s got through: %v", what, err)
		}
		if reason != "" {
			eventually(t, what+" is told of", func() error {
				if log := b.log.String() + s.log.String(); !strings.Contains(log, reason) {
					return fmt.Errorf("no %q in the logs", reason)
				}
				return nil
			})
		}
	}
	status := func(address string) error {
		if status, text := plain(t, address, "GET / HTTP/1.1\r\nHost: billing\r\nConnection: close\r\n\r\n"); status != 200 {
			return fmt.Errorf("%d %s", status, text)
		}
		return nil
	}
	refused("shop, which isn't in allow,", "it isn't in allow", status(fmt.Sprintf("127.0.0.1:%d", p[5])))
	refused("plain text", "", status(fmt.Sprintf("127.0.0.1:%d", at.Service.Port)))
	url := fmt.Sprintf("https://127.0.0.1:%d/", at.Service.Port)
	_, err := fetch(ours.client(t, ""), url)
	refused("nobody's certificate", "caller refused", err)
	_, err = fetch(others.client(t, "orders"), url)
	refused("another fleet's orders", "", err)
	_, err = fetch(ours.client(t, "edge"), url)
	refused("edge", "", err)
	if _, err := fetch(ours.client(t, "orders"), url); err != nil {
		t.Errorf("orders itself: %v", err)
	}
	served = billing.served.Load()

	// The edge: by its own identity, whatever registrations say.
	edge := func(identity string) *gateway {
		return newGateway(t, fmt.Sprintf(`
consul { address = "127.0.0.1:%d" }
%s
service "orders" { protocol = "h2c" }
route "orders" {
  paths   = ["/orders"]
  service = "orders"
}
route "billing" {
  paths   = ["/billing"]
  service = "billing"
}
route "stock" {
  paths   = ["/stock"]
  service = "stock"
}`, a.port, identity)).start(t)
	}
	if _, err := a.do("PUT", "/v1/agent/service/register", map[string]any{ // orders' sidecar as if it were stock's
		"ID": "stock-1", "Name": "stock", "Address": "127.0.0.1", "Port": inOrders.Service.Port, "Meta": map[string]string{"sidegate-identity": "spiffe://fleet.example/svc/stock"},
	}); err != nil {
		t.Fatal(err)
	}
	g := edge(ours.identity("edge"))
	gc := g.client(false)
	eventually(t, "the edge reaches orders", func() error {
		h, err := hear(gc, "https://app.test/orders")
		if err == nil && h.App != "orders" {
			err = fmt.Errorf("heard %+v", h)
		}
		return err
	})
	_, err = fetch(gc, "https://app.test/billing")
	refused("the edge, which isn't in allow,", "", err)
	eventually(t, "the edge says why", func() error {
		if !strings.Contains(g.log.String(), "the instance refuses our certificate") {
			return errors.New("not yet")
		}
		return nil
	})
	before := orders.served.Load()
	eventually(t, "stock isn't what it says", func() error {
		_, err := fetch(gc, "https://app.test/stock")
		if err == nil || !strings.Contains(err.Error(), "502") {
			return fmt.Errorf("the answer is %v", err)
		}
		return nil
	})
	if orders.served.Load() != before {
		t.Error("what was for stock has reached orders")
	}
	nobody := edge("")
	eventually(t, "without an identity", func() error {
		_, err := fetch(nobody.client(false), "https://app.test/orders")
		if err == nil || !strings.Contains(err.Error(), "502") {
			return fmt.Errorf("the answer is %v", err)
		}
		if log := nobody.log.String(); !strings.Contains(log, "write an identity block") {
			return errors.New("the log doesn't say why")
		}
		return nil
	})
	if orders.served.Load() != before {
		t.Error("a gateway without an identity has reached orders")
	}

	// Whom it allows is a reload away.
	b.write(t, block(`"orders", "edge"`))
	b.signal(syscall.SIGHUP)
	eventually(t, "the edge is allowed", func() error { _, err := fetch(gc, "https://app.test/billing"); return err })
	out, _ := run(t, "status", "-config", b.config())
	if !strings.Contains(out, "spiffe://fleet.example/svc/billing") {
		t.Errorf("status doesn't name the identity:\n%s", out)
	}
}

// TestSidecarIdentityWrong: certificates that nobody would accept are told of before
// anything is put in force.
func TestSidecarIdentityWrong(t *testing.T) {
	ours := newFleet(t, "fleet.example", "orders", "billing")
	for _, tt := range []struct{ name, text, want string }{
		{"another service's", ours.identity("billing") + `sidecar "orders" { app = "127.0.0.1:1" }`, "the certificate is that of spiffe://fleet.example/svc/billing"},
		{"not there", ours.identity("none") + `sidecar "orders" { app = "127.0.0.1:1" }`, "none.pem"},
		{"allow without", "sidecar \"orders\" {\n app = \"127.0.0.1:1\"\n allow = [\"edge\"]\n}", "there is no identity to ask for them by"},
		{"none", `sidecar "orders" { app = "127.0.0.1:1" }`, "neither encrypted, nor is it known who calls"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, _ := run(t, "validate", "-config", write(t, filepath.Join(t.TempDir(), "orders.hcl"), tt.text))
			if !strings.Contains(out, tt.want) {
				t.Errorf("validate has no %q: %s", tt.want, out)
			}
		})
	}
}
