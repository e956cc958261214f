// Package setup writes a first configuration: small, with comments, from a few
// answers that come from flags or from a person at a terminal. It knows no more of
// the language than what it writes; whether that is right, the code behind
// `sidegate validate` says before a file is put in its place.
//
// It starts no goroutine.
package setup

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
)

// TLS says where certificates come from.
type TLS string

// The ways there are.
const (
	Local TLS = "local" // the gateway's own authority
	ACME  TLS = "acme"
	Files TLS = "files"
	Plain TLS = "plain" // no TLS at all
)

// Answers are what a configuration is made of.
type Answers struct {
	Services []Service
	// Hosts of the routes or, with Consul and without services, those that
	// registrations may claim.
	Hosts []string

	Consul      string // the agent's address; "": none
	ConsulToken string // path of a file

	TLS               TLS
	Email             string // of ACME's account; may be empty
	Directory, CAFile string // of another ACME server than Let's Encrypt
	CertFile, KeyFile string

	Listen   string // address of the listener that takes the requests
	Redirect string // address of one that redirects to it; "": none
	Admin    string // address of the admin server
	StateDir string // "": the default
}

// Service is one service behind the gateway.
type Service struct {
	Name      string
	Instances []string // host:port; none: from Consul
}

// File is one file of a configuration.
type File struct {
	Name string
	Text []byte
	Mode fs.FileMode
	What string // for a person; "": the configuration itself
}

// TokenFile is the name of the file with the admin server's token.
const TokenFile = "admin.token"

// ConfigFile is the name of the file with the configuration.
const ConfigFile = "sidegate.hcl"

// ParseService reads NAME or NAME=HOST:PORT,….
func ParseService(text string) (Service, error) {
	name, list, given := strings.Cut(text, "=")
	s := Service{Name: strings.TrimSpace(name)}
	if err := checkName(s.Name); err != nil {
		return s, err
	}
	if !given {
		return s, nil
	}
	for _, a := range strings.Split(list, ",") {
		a = strings.TrimSpace(a)
		if err := checkAddress(a, true); err != nil {
			return s, fmt.Errorf("service %q: %w", s.Name, err)
		}
		s.Instances = append(s.Instances, a)
	}
	return s, nil
}

// Files are those of the configuration. dir is where they will be.
func (a *Answers) Files(dir string) ([]File, error) {
	var list []File
	token := !loopback(a.Admin)
	if token {
		list = append(list, File{Name: TokenFile, Text: newToken(), Mode: 0o600, What: "the admin server's token, which clients send as Authorization: Bearer …"})
	}
	text, err := config.Format(ConfigFile, []byte(a.config(dir, token)))
	return append(list, File{Name: ConfigFile, Text: text, Mode: 0o644}), err
}

// newToken is a token of 256 bits.
func newToken() []byte {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return []byte(base64.RawURLEncoding.EncodeToString(b[:]) + "\n")
}

// text is a configuration that grows.
type text struct{ strings.Builder }

func (t *text) line(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }

func (a *Answers) config(dir string, token bool) string {
	t := &text{}
	t.line("# The gateway's configuration, begun by sidegate init. After an edit:")
	t.line("#")
	t.line("#   sidegate validate -config %s", dir)
	t.line("#")
	t.line("# A running gateway takes over what is right by itself. Other files *.hcl in this")
	t.line("# folder are read, too. Every block and argument:")
	t.line("# /usr/share/doc/sidegate/reference.md; guides are beside it.")
	t.line("")
	if a.StateDir != "" {
		t.line("state_dir = %s # certificates, the last known instances, the CLI's socket", quote(a.StateDir))
		t.line("")
	}
	t.line("# One line for each request; journald keeps it.")
	t.line("access_log {\n  output = \"stdout\"\n}")
	t.line("")
	t.line("# Status page, JSON API, /metrics, /healthz and /readyz.")
	t.line("admin {\n  address = %s", quote(a.Admin))
	if token {
		t.line("  token = file(%s) # since other hosts reach it", quote(TokenFile))
	}
	t.line("}")
	a.listeners(t)
	a.certificates(t)
	a.consul(t)
	a.routes(t)
	return t.String()
}

func (a *Answers) listeners(t *text) {
	t.line("")
	if a.TLS == Plain {
		t.line("# Without TLS: for what stands behind something that has it.")
		t.line("listener \"http\" {\n  address = %s\n  tls = false\n}", quote(a.Listen))
		return
	}
	t.line("listener \"https\" {\n  address = %s # HTTP/1.1 and HTTP/2, and HTTP/3 on UDP\n}", quote(a.Listen))
	if a.Redirect != "" {
		t.line("")
		t.line("# Answers ACME's challenges, and redirects the rest to https.")
		t.line("listener \"http\" {\n  address = %s\n  tls = false\n  redirect_https = true\n}", quote(a.Redirect))
	}
}

func (a *Answers) certificates(t *text) {
	switch a.TLS {
	case ACME:
		t.line("")
		t.line("# A certificate for every public host that a route names. Who writes this block")
		t.line("# agrees to the terms of the authority.")
		t.line("tls {\n  acme {")
		if a.Email != "" {
			t.line("    email = %s", quote(a.Email))
		} else {
			t.line("    # email = \"ops@example.com\" # where the authority writes to")
		}
		if a.Directory != "" {
			t.line("    directory = %s", quote(a.Directory))
		}
		if a.CAFile != "" {
			t.line("    ca_file = %s # the root of that server's own certificate", quote(a.CAFile))
		}
		t.line("  }\n}")
	case Files:
		t.line("")
		t.line("# Read again when they change. There may be several certificate blocks.")
		t.line("tls {\n  certificate {\n    cert_file = %s\n    key_file = %s\n  }\n}", quote(a.CertFile), quote(a.KeyFile))
	case Local:
		t.line("")
		t.line("# Certificates come from this gateway's own authority: sidegate ca show | trust.")
	}
}

func (a *Answers) consul(t *text) {
	if a.Consul == "" {
		return
	}
	t.line("")
	t.line("consul {\n  address = %s", quote(a.Consul))
	if a.ConsulToken != "" {
		t.line("  token = file(%s)", quote(a.ConsulToken))
	}
	if len(a.Services) == 0 {
		t.line("  # What registrations may claim: one with the tag sidegate.host=HOST, and")
		t.line("  # perhaps sidegate.path=/orders/*, is served without a line here.")
		t.line("  expose {\n    hosts = %s\n  }", list(a.Hosts))
	} else {
		t.line("  # Registrations may route themselves by tags, within these hosts:")
		t.line("  # expose { hosts = [\"*.example.com\"] }")
	}
	t.line("}")
}

func (a *Answers) routes(t *text) {
	for i, s := range a.Services {
		hosts, path := a.place(i)
		t.line("")
		t.line("route %s {", quote(s.Name))
		if len(hosts) > 0 {
			t.line("  hosts = %s", list(hosts))
		} else {
			t.line("  # hosts = [\"api.example.com\"] # without: every host")
		}
		if path != "" {
			t.line("  paths = [%s]", quote(path+"*"))
			t.line("  # strip_prefix = %s # if the service doesn't expect it", quote(strings.TrimSuffix(path, "/")))
		}
		t.line("  service = %s\n}", quote(s.Name))
		t.line("")
		if len(s.Instances) == 0 {
			t.line("# Its instances are those that are registered in Consul.")
			t.line("service %s {", quote(s.Name))
		} else {
			t.line("service %s {\n  instances = %s", quote(s.Name), list(s.Instances))
		}
		t.line("  # health_check { path = \"/healthz\" } # keeps requests away from instances that don't answer 2xx")
		t.line("}")
	}
}

// place is where the service i is: at a host of its own, if there are as many
// hosts as services, else at its name on all of them. A single service has all.
func (a *Answers) place(i int) (hosts []string, path string) {
	switch {
	case len(a.Services) == 1:
		return a.Hosts, ""
	case len(a.Hosts) == len(a.Services):
		return a.Hosts[i : i+1], ""
	default:
		return a.Hosts, "/" + a.Services[i].Name + "/"
	}
}

// quote writes a string of the language.
func quote(s string) string {
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(strconv.Quote(s))
}

func list(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// absolute makes paths such that the configuration may stand anywhere.
func absolute(paths ...*string) error {
	for _, p := range paths {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}
