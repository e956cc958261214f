package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// The hop between two services: the caller's sidecar, plain on loopback on one side,
// TLS 1.3 with certificates both ways on the other, and the sidecar of the service that
// is called. nginx does the same with two processes and the same certificates and
// cipher, each process with a core's turn as ours have it.

const nginxHopConf = `
worker_processes 1; daemon off; master_process off; pid {{.Dir}}/{{.Name}}.pid; error_log {{.Dir}}/{{.Name}}.err;
events { worker_connections 4096; }
http {
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 600;
  client_body_temp_path {{.Dir}}/hc; proxy_temp_path {{.Dir}}/hp; fastcgi_temp_path {{.Dir}}/hf; uwsgi_temp_path {{.Dir}}/hu; scgi_temp_path {{.Dir}}/hs;
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
{{if eq .Name "nginx-in"}}
  upstream app { server 127.0.0.1:{{.Backend}}; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:{{.Plain}} ssl backlog=4096;
    ssl_certificate {{.Dir}}/orders.pem; ssl_certificate_key {{.Dir}}/orders.key; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    ssl_client_certificate {{.Dir}}/ca.pem; ssl_verify_client on;
    location / { proxy_pass http://app; }
  }
{{else}}
  upstream orders { server 127.0.0.1:{{.Peer}}; keepalive 256; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:{{.Plain}} backlog=4096;
    location / {
      proxy_pass https://orders;
      proxy_ssl_certificate {{.Dir}}/caller.pem; proxy_ssl_certificate_key {{.Dir}}/caller.key; proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
      proxy_ssl_trusted_certificate {{.Dir}}/ca.pem; proxy_ssl_verify on; proxy_ssl_name orders;
    }
  }
{{end}}
}`

const sidecarConf = `
state_dir = "{{.Dir}}/state-{{.Name}}"
log { level = "warn" }
consul { address = "http://127.0.0.1:{{.Agent}}" }
identity {
  ca_file   = "{{.Dir}}/ca.pem"
  cert_file = "{{.Dir}}/{{.Service}}.pem"
  key_file  = "{{.Dir}}/{{.Service}}.key"
}
sidecar "{{.Service}}" {
  app    = "127.0.0.1:{{.Backend}}"
  listen = "127.0.0.1:0"
{{if .Plain}}
  upstream "{{.Calls}}" { listen = "127.0.0.1:{{.Plain}}" }
{{end}}
}
`

// hop is two processes that requests go through, and where they come in.
type hop struct {
	name      string
	port      int
	processes []*process
}

// fleet is what the works with sidecars share.
type fleet struct {
	*bed
	agent int // port
	http  http.Client
}

// sidecars measures and prints what sidecars cost.
func (b *bed) sidecars(o options) error {
	works := []struct {
		name string
		run  func(*fleet, options) error
	}{
		{"sidecar, mTLS hop", (*fleet).hops}, {"sidecar, start to registered", (*fleet).starts}, {"fifty sidecars", (*fleet).fifty},
	}
	works = slices.DeleteFunc(works, func(w struct {
		name string
		run  func(*fleet, options) error
	}) bool {
		return !strings.Contains(w.name, o.only)
	})
	if len(works) == 0 {
		return nil
	}
	f, err := b.newFleet()
	if err != nil {
		return err
	}
	for _, w := range works {
		if err := w.run(f, o); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// newFleet starts an agent and makes an authority.
func (b *bed) newFleet() (*fleet, error) {
	f := &fleet{bed: b}
	consul, err := look("consul")
	if err != nil {
		return nil, fmt.Errorf("consul isn't installed: run .ci/setup bench: %w", err)
	}
	free, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	f.agent = free[0]
	arg := strconv.Itoa
	_, err = f.launch("consul", "1", free[0], consul, "agent", "-dev", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-node", "bench", "-http-port", arg(free[0]), "-dns-port", "-1",
		"-grpc-port", "-1", "-grpc-tls-port", "-1", "-server-port", arg(free[1]), "-serf-lan-port", arg(free[2]), "-serf-wan-port", arg(free[3]), "-log-level", "error",
		"-hcl", "limits { http_max_conns_per_client = 1000 }") // fifty hosts' worth of sidecars come from one address
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		leader := ""
		if err := f.ask("/v1/status/leader", &leader); err == nil && leader != "" {
			break
		} else if time.Now().After(end) {
			return nil, errors.Join(errors.New("the agent has no leader"), err)
		}
	}
	if err := f.issue("init", "-trust-domain", "bench.example"); err != nil {
		return nil, err
	}
	return f, errors.Join(f.issue("issue", "-service", "caller"), f.issue("issue", "-service", "orders"))
}

func (f *fleet) issue(what string, args ...string) error {
	out, err := exec.Command(f.tools["sidegate"], append([]string{"ca", what, "-dir", f.dir}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sidegate ca %s: %w: %s", what, err, out)
	}
	return nil
}

func (f *fleet) ask(path string, answer any) error {
	r, err := f.http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", f.agent, path))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return decode(r.Body, answer)
}

func decode(r io.Reader, v any) error { return json.NewDecoder(r).Decode(v) }

// await waits until that many instances of a service are healthy, or for an answer
// of a port.
func (f *fleet) await(service string, n int) error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var list []struct{}
		err := f.ask("/v1/health/service/"+service+"?passing=1", &list)
		if err == nil && len(list) >= n {
			return nil
		}
		if time.Now().After(end) || f.ctx.Err() != nil {
			return errors.Join(fmt.Errorf("%d instances of %s are healthy, want %d", len(list), service, n), err)
		}
	}
}

func answers(port int) error {
	r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/small", port))
	if err != nil {
		return err
	}
	_ = r.Body.Close() // its status is all that is wanted
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

func awaitAnswer(port int) error {
	var err error
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = answers(port); err == nil {
			return nil
		}
	}
	return fmt.Errorf("port %d: %w", port, err)
}

// launch starts a process of the fleet on the given cores; port 0: it isn't waited for.
func (f *fleet) launch(name, cores string, port int, args ...string) (*process, error) {
	p := &process{name: name, ports: map[string]int{"plain": port}}
	p.cmd = exec.Command("taskset", append([]string{"-c", cores}, args...)...)
	p.cmd.Env = os.Environ()
	if len(cores) == 1 {
		p.cmd.Env = append(p.cmd.Env, "GOMAXPROCS=1")
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	f.running = append(f.running, p)
	return p, nil
}

// sidecar writes a sidecar's configuration; without port it calls nobody.
func (f *fleet) sidecar(name, service, calls string, port int) (string, error) {
	return f.file(name+".hcl", sidecarConf, map[string]any{
		"Dir": f.dir, "Name": name, "Service": service, "Calls": calls, "Plain": port, "Agent": f.agent, "Backend": f.backend,
	})
}

func (f *fleet) file(name, text string, with map[string]any) (string, error) {
	t, err := template.New(name).Parse(text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, with); err != nil {
		return "", err
	}
	path := filepath.Join(f.dir, name)
	return path, os.WriteFile(path, out.Bytes(), 0o600)
}

func (f *fleet) sidegateHop() (*hop, error) {
	free, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	h := &hop{name: "sidegate", port: free[0]}
	for _, s := range []struct {
		service, calls string
		port           int
	}{{"orders", "", 0}, {"caller", "orders", free[0]}} {
		path, err := f.sidecar("hop-"+s.service, s.service, s.calls, s.port)
		if err != nil {
			return nil, err
		}
		p, err := f.launch("hop-"+s.service, "0", s.port, f.tools["sidegate"], "sidecar", "-config", path)
		if err != nil {
			return nil, err
		}
		h.processes = append(h.processes, p)
		if err := f.await(s.service, 1); err != nil {
			return nil, err
		}
	}
	return h, awaitAnswer(h.port)
}

func (f *fleet) nginxHop() (*hop, error) {
	free, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	h := &hop{name: "nginx", port: free[1]}
	for i, name := range []string{"nginx-in", "nginx-out"} {
		path, err := f.file(name+".conf", nginxHopConf, map[string]any{"Dir": f.dir, "Name": name, "Plain": free[i], "Peer": free[0], "Backend": f.backend})
		if err != nil {
			return nil, err
		}
		p, err := f.launch(name, "0", free[i], f.tools["nginx"], "-p", f.dir, "-c", path)
		if err != nil {
			return nil, err
		}
		h.processes = append(h.processes, p)
	}
	return h, awaitAnswer(h.port)
}

// used is the CPU time of both processes.
func (h *hop) used() (sum int64, err error) {
	for _, p := range h.processes {
		n, err := cpuTime(p.pid())
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

const hopRate = 1000 // requests a second

// hops compares the hop's CPU, when it has as much to do as it can and at a rate, and
// what it adds to latency, and reads the memory.
func (f *fleet) hops(o options) error {
	ours, err := f.sidegateHop()
	if err != nil {
		return err
	}
	time.Sleep(o.settle)
	fmt.Println("\n| sidecar | VmRSS, MiB, both sides | of it their own |\n|---|---|---|")
	if err := ours.weigh(fmt.Sprintf("at rest for %s", o.settle)); err != nil {
		return err
	}
	if _, err := f.paced(ours.port, 10*time.Second); err != nil {
		return err
	}
	if err := ours.weigh("after 10 s of 1,000 requests a second"); err != nil {
		return err
	}
	peer, err := f.nginxHop()
	if err != nil {
		return err
	}
	hops := []*hop{ours, peer}
	full, slow := make([][]float64, 2), make([][]float64, 2)
	p50, direct := make([][]float64, 2), []float64{}
	for round := range o.rounds + 1 {
		q, err := f.paced(f.backend, o.length)
		if err != nil {
			return err
		}
		if round > 0 {
			direct = append(direct, q.P50)
		}
		for turn := range hops {
			i := (turn + round) % 2
			most, err := f.saturated(hops[i], o.length)
			if err != nil {
				return err
			}
			before, e1 := hops[i].used()
			q, err := f.paced(hops[i].port, o.length)
			after, e2 := hops[i].used()
			if err = errors.Join(err, e1, e2); err != nil {
				return err
			}
			if round > 0 {
				full[i] = append(full[i], most)
				slow[i] = append(slow[i], float64(after-before)/1000/float64(q.Count))
				p50[i] = append(p50[i], q.P50-direct[len(direct)-1])
			}
		}
	}
	if err := ours.weigh("after all the loads"); err != nil {
		return err
	}
	fmt.Println("\n| sidecar, mTLS hop | sidegate to nginx [95 %] | goal, at most | sidegate | nginx |\n|---|---|---|---|---|")
	fmt.Printf("| us of CPU per request, both sides, 64 connections, one core | %s | 0.9 | %.1f | %.1f |\n", ratioOf(full[0], full[1]), median(full[0]), median(full[1]))
	fmt.Printf("| the same at 1,000 requests a second over 16 connections | %s | | %.1f | %.1f |\n", ratioOf(slow[0], slow[1]), median(slow[0]), median(slow[1]))
	fmt.Printf("| us added to p50 at that rate (direct: %.0f) | %s | 100 us | %.0f | %.0f |\n", median(direct), ratioOf(p50[0], p50[1]), median(p50[0]), median(p50[1]))
	for _, h := range hops {
		for _, p := range h.processes {
			f.end(p)
		}
	}
	return nil
}

// weigh prints what each of its processes has in memory.
func (h *hop) weigh(when string) error {
	var all, own []string
	for _, p := range h.processes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid()))
		if err != nil {
			return err
		}
		all = append(all, fmt.Sprintf("%.1f", float64(field(text, "VmRSS:"))/1024))
		own = append(own, fmt.Sprintf("%.1f", float64(field(text, "RssAnon:"))/1024))
	}
	fmt.Printf("| %s | %s | %s |\n", when, strings.Join(all, ", "), strings.Join(own, ", "))
	return nil
}

// field is a number in a file of /proc; 0: it has none of that name.
func field(text []byte, name string) int {
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == name {
			n, _ := strconv.Atoi(words[1]) // the kernel's own
			return n
		}
	}
	return 0
}

func (f *fleet) paced(port int, length time.Duration) (q quantiles, err error) {
	out, err := f.command("1", f.self, "-load", "rate", "-address", fmt.Sprintf("127.0.0.1:%d", port), "-conns", "16", "-rate", strconv.Itoa(hopRate), "-length", length.String()).CombinedOutput()
	if err != nil {
		return q, fmt.Errorf("%w: %s", err, out)
	}
	return q, json.Unmarshal(out, &q)
}

func (f *fleet) saturated(h *hop, length time.Duration) (us float64, err error) {
	before, err := h.used()
	if err != nil {
		return 0, err
	}
	n, _, err := f.load(work{tool: "wrk", path: "/small", conns: 64}, h.port, length)
	if err != nil {
		return 0, err
	}
	after, err := h.used()
	return float64(after-before) / 1000 / float64(n), err
}
