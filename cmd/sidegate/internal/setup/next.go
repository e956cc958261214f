package setup

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
)

// Step is something to do next: why, and the command.
type Step struct{ Why, Command string }

// Next says how to go on. dir is where the configuration is, unit says whether
// systemd runs it.
func (a *Answers) Next(dir string, unit bool) []Step {
	steps := []Step{{"what this machine lacks", "sidegate doctor" + at(dir, unit)}}
	if unit {
		steps = append(steps, Step{"start it now and at each boot", "systemctl enable --now sidegate"})
	} else {
		steps = append(steps, Step{"start it", "sidegate run" + at(dir, unit)})
	}
	if len(a.Services) == 0 {
		steps = append(steps, Step{"register a service that routes itself", a.register()})
	}
	return append(steps, Step{"ask it", a.curl()})
}

func at(dir string, usual bool) string {
	if usual {
		return ""
	}
	return " -config " + shell(dir)
}

// host is a name to ask for.
func (a *Answers) host() string {
	if len(a.Hosts) == 0 {
		return ""
	}
	return strings.Replace(a.Hosts[0], "*.", "www.", 1)
}

// curl is a command that gets an answer, here and now where that is possible.
func (a *Answers) curl() string {
	listen, port, _ := net.SplitHostPort(a.Listen) // checked
	if ip, err := netip.ParseAddr(listen); listen == "" || err == nil && ip.IsUnspecified() {
		listen = "127.0.0.1"
	}
	path := "/"
	if len(a.Services) > 0 {
		if _, p := a.place(0); p != "" {
			path = p
		}
	}
	scheme, usual, host := "https", "443", a.host()
	if a.TLS == Plain {
		scheme, usual = "http", "80"
	}
	authority := host
	if host == "" {
		authority = listen
		if strings.Contains(listen, ":") {
			authority = "[" + listen + "]"
		}
	}
	if port != usual {
		authority += ":" + port
	}
	words := []string{"curl"}
	if a.TLS == Local {
		dir := or(a.StateDir, "/var/lib/sidegate")
		words = append(words, "--cacert", shell(filepath.Join(dir, "ca", "root.pem")))
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil && a.TLS != ACME {
		words = append(words, "--resolve", shell(fmt.Sprintf("%s:%s:%s", host, port, listen)))
	}
	return strings.Join(append(words, shell(scheme+"://"+authority+path)), " ")
}

// register is a command that registers a service in Consul.
func (a *Answers) register() string {
	agent := a.Consul
	var words []string
	if path, ok := strings.CutPrefix(agent, "unix://"); ok {
		words, agent = []string{"--unix-socket", shell(path)}, "http://localhost"
	} else if !strings.Contains(agent, "://") {
		agent = "http://" + agent
	}
	if a.ConsulToken != "" {
		words = append(words, "-H", fmt.Sprintf(`"X-Consul-Token: $(cat %s)"`, shell(a.ConsulToken)))
	}
	body := fmt.Sprintf(`{"Name": "hello", "Address": "127.0.0.1", "Port": 8080, "Tags": ["sidegate.host=%s"]}`, a.host())
	words = append([]string{"curl -X PUT"}, words...)
	return strings.Join(append(words, "-d", shell(body), shell(agent+"/v1/agent/service/register")), " ")
}

// shell quotes a word for a POSIX shell where it needs that.
func shell(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@,+", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
