package consul

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
)

// An https agent that wants a client certificate: all feeds block over HTTP/2.
func TestAgentHTTPS(t *testing.T) {
	dir, bin := t.TempDir(), tool(t, "consul")
	for _, args := range [][]string{
		{"tls", "ca", "create"},
		{"tls", "cert", "create", "-server", "-dc=dc1", "-additional-ipaddress=127.0.0.1"},
		{"tls", "cert", "create", "-client", "-dc=dc1"},
	} {
		cmd := exec.Command(bin, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	port := freePorts(t)[0]
	a := newAgent(t, false, fmt.Sprintf(`
tls { https { ca_file = %q
  cert_file = %q
  key_file = %q
  verify_incoming = true } }`, file("consul-agent-ca.pem"), file("dc1-server-consul-0.pem"), file("dc1-server-consul-0-key.pem")),
		fmt.Sprintf("-https-port=%d", port))

	const services = maxBlockingPlain + 50
	for i := range services {
		register(t, a, "", fmt.Sprintf(`{"ID":"s%d","Name":%q,"Port":80}`, i, serviceName(i)))
	}
	address := fmt.Sprintf("https://127.0.0.1:%d", port)
	c := newClient(t, address, "", func(c *Client) {
		c.conf.TLSConfig.CAFile = file("consul-agent-ca.pem")
		c.conf.TLSConfig.CertFile = file("dc1-client-consul-0.pem")
		c.conf.TLSConfig.KeyFile = file("dc1-client-consul-0-key.pem")
		if err := c.connect(); err != nil {
			t.Fatal(err)
		}
	})
	fl := watchFleet(c, services)
	defer fl.stop()
	eventually(t, "all services are known", fl.all(1))
	register(t, a, "", fmt.Sprintf(`{"ID":"more","Name":%q,"Port":81}`, serviceName(services-1)))
	eventually(t, "a change", func() bool { return fl.known[services-1].Load() == 2 })
	for _, s := range c.Status() {
		if s.Shared {
			t.Errorf("%s shares, though the agent speaks HTTP/2", s.What)
		}
	}

	stranger := newClient(t, address, "", func(c *Client) {
		c.conf.TLSConfig.CAFile = file("consul-agent-ca.pem")
		if err := c.connect(); err != nil {
			t.Fatal(err)
		}
	})
	r := discoverytest.Watch(t, stranger, discovery.Query{Service: "consul"})
	eventually(t, "the status tells", statusHas(stranger, "tls"))
	if r.Count() != 0 {
		t.Error("reported without a client certificate")
	}
}

// A real agent that allows few connections: we shrink until it is content.
func TestAgentConnectionLimit(t *testing.T) {
	a := newAgent(t, false, `limits { http_max_conns_per_client = 40 }`)
	const services = 80
	for i := range services {
		register(t, a, "", fmt.Sprintf(`{"ID":"s%d","Name":%q,"Port":80}`, i, serviceName(i)))
	}
	c := newClient(t, a.address(), "")
	fl := watchFleet(c, services)
	defer fl.stop()
	defer func() {
		if t.Failed() {
			t.Logf("status: %+v\n%d of %d block", c.Status(), c.gate.used, c.gate.limit)
		}
	}()
	eventually(t, "all services are known", fl.all(1))
	eventually(t, "no watch fails any more", func() bool {
		for _, s := range c.Status() {
			if s.Error != "" {
				return false
			}
		}
		return true
	})
	for i := range services {
		register(t, a, "", fmt.Sprintf(`{"ID":"m%d","Name":%q,"Port":81,"Check":{"TTL":"1h","Status":"passing"}}`, i, serviceName(i)))
	}
	eventually(t, "all changes", fl.all(2))
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	t.Logf("limit: %d", c.gate.limit)
	if c.gate.limit >= maxBlockingPlain {
		t.Errorf("limit = %d, want fewer than %d", c.gate.limit, maxBlockingPlain)
	}
}
