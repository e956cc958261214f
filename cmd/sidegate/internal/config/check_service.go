package config

import (
	"fmt"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// maxInstances bounds a list that somebody wrote by hand or by program.
const maxInstances = 10000

func (c *checker) service(s *upstream.Config) {
	what := fmt.Sprintf("service %q", s.Name)
	broken := c.broken[s] // then what it lacks or contradicts is left alone
	c.instances(s, what)
	if !broken {
		c.hash(s, what)
	}
	if s.Sticky != nil && !c.broken[s.Sticky] && !isToken(s.Sticky.Cookie) {
		c.errorf(s.Sticky, "cookie", "", "%s: sticky: %q can't be a cookie's name", what, s.Sticky.Cookie)
	}
	c.health(s, what)
	if s.TLS == nil {
		return
	}
	if !broken && s.Protocol != "https" && s.Protocol != "h2" {
		c.errorf(s.TLS, "", `Write protocol = "https" or "h2", or take the tls block out.`, "%s: tls says how to speak TLS, but protocol %q doesn't", what, s.Protocol)
	}
	c.pair(s.TLS, what+": tls", s.TLS.CertFile, s.TLS.KeyFile)
	if s.TLS.Insecure {
		c.diags.warnf(c.at(s.TLS, "insecure"), "Name the authority with ca_file instead.", "%s: its certificates aren't verified; anyone on the way can read and change what it gets", what)
	}
}

func (c *checker) instances(s *upstream.Config, what string) {
	if c.given(s, "instances") && s.Consul != nil {
		c.errorf(s, "instances", "Keep one of them.", "%s has instances and a consul block", what)
		return
	}
	if len(s.Instances) > maxInstances {
		c.errorf(s, "instances", "", "%s has more than %d instances", what, maxInstances)
		return
	}
	seen := map[string]bool{}
	for i, a := range s.Instances {
		host, port, err := hostPort(a)
		if path, ok := strings.CutPrefix(a, proxy.UnixPrefix); ok {
			host, port, err = "localhost", 1, socketPath(path)
		}
		if err == nil && (host == "" || port == 0) {
			err = fmt.Errorf("%.100q lacks the host or the port", a)
		}
		advice := `Write it like "10.0.0.7:9001".`
		if err == nil && seen[a] {
			err, advice = fmt.Errorf("%q stands there twice", a), "Keep one of them."
		}
		if err != nil {
			if strings.Contains(a, "://") && !strings.HasPrefix(a, proxy.UnixPrefix) {
				advice = "Leave the scheme out; protocol says how to speak to it."
			}
			c.broken[s] = true
			c.diags.Errorf(c.element(s, "instances", i), advice, "%s: instances: %v", what, err)
		}
		seen[a] = true
	}
	if len(s.Instances) > 0 || c.broken[s] {
		return
	}
	if c.given(s, "instances") && s.Consul == nil {
		c.errorf(s, "instances", "Write host:port of each, or take the argument out to ask Consul.", "%s has an empty list of instances", what)
		return
	}
	if c.file.Consul == nil && c.whole {
		c.errorf(s, "consul", noConsul, "%s has no instances, and there is no Consul to ask for them", what)
	}
}

// maxSocketPath is what the kernel takes for the path of a unix socket (unix(7)).
const maxSocketPath = 107

// socketPath checks the path of a unix socket.
func socketPath(path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return fmt.Errorf("the path of a unix socket starts with /, and %.100q doesn't", path)
	case strings.HasSuffix(path, "/") || strings.ContainsRune(path, 0):
		return fmt.Errorf("%.100q isn't the path of a unix socket", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("the path of a unix socket has at most %d bytes, and %.100q… has %d", maxSocketPath, path, len(path))
	default:
		return nil
	}
}

const noConsul = "Give it instances = [\"host:port\"], or say where Consul is: a consul block at the top, or CONSUL_HTTP_ADDR."

func (c *checker) hash(s *upstream.Config, what string) {
	switch {
	case s.Balance == "hash" && s.HashBy == "":
		c.errorf(s, "balance", `Add hash_by = "header:X-User", or cookie:, query:, client_ip, consumer.`, "%s: balance = \"hash\" needs hash_by", what)
	case s.Balance != "hash" && s.HashBy != "":
		c.errorf(s, "hash_by", `Add balance = "hash", or take hash_by out.`, "%s: hash_by without balance = \"hash\"", what)
	case s.HashBy == "", s.HashBy == "client_ip", s.HashBy == "consumer":
	default:
		kind, name, ok := strings.Cut(s.HashBy, ":")
		switch {
		case !ok || kind != "header" && kind != "cookie" && kind != "query":
			c.errorf(s, "hash_by", didYouMean(kind, []string{"header", "cookie", "query", "client_ip", "consumer"}), "%s: hash_by can't be %q: it is header:NAME, cookie:NAME, query:NAME, client_ip or consumer", what, s.HashBy)
		case name == "" || kind != "query" && !isToken(name):
			c.errorf(s, "hash_by", "", "%s: hash_by: %q can't be the name of a %s", what, name, kind)
		}
	}
}

func (c *checker) health(s *upstream.Config, what string) {
	h := s.HealthCheck
	if h == nil || c.broken[h] {
		return
	}
	if h.Type == "http" && (!strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, " \t\r\n#")) {
		c.errorf(h, "path", `Write it like "/healthz".`, "%s: health_check: %q isn't a path", what, h.Path)
	}
	if h.Type != "http" && c.given(h, "path") {
		c.errorf(h, "path", `Take it out, or write type = "http".`, "%s: health_check: a %s check has no path", what, h.Type)
	}
	if h.Type != "grpc" && h.Service != "" {
		c.errorf(h, "service", `Take it out, or write type = "grpc".`, "%s: health_check: only a grpc check asks for a service", what)
	}
	if strings.ContainsAny(h.Host, "/ \t\r\n@") {
		c.errorf(h, "host", "", "%s: health_check: %q isn't a host", what, h.Host)
	}
}

// isToken reports whether s is a token (RFC 9110, 5.6.2): the name of a field,
// a cookie or a method.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}
