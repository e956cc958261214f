package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"text/template"
	"time"
)

// bed holds the processes of a run, all of them this program's own.
type bed struct {
	ctx     context.Context // ends the run; nothing else is kept in it
	dir     string
	self    string // this program, which is some works' load generator
	tools   map[string]string
	backend int    // port
	redis   int    // likewise
	token   string // that the policies' issuer signed
	running []*process
}

// apiKey is what the clients of works with policies send.
const apiKey = "b3JkZXJzLWFyZS1zaGlwcGVkLW9uLW1vbmRheXM"

// process is a contender or the backend.
type process struct {
	name  string
	cmd   *exec.Cmd
	ports map[string]int
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kind is how a process is started.
type kind struct {
	tool, config, file string
	args               func(tool, dir, file string, port int) []string
	cores, procs       string
	policies           bool // a key, a rate limit and the access log
}

func nginxArgs(tool, dir, file string, _ int) []string { return []string{tool, "-p", dir, "-c", file} }
func haproxyArgs(tool, _, file string, _ int) []string { return []string{tool, "-f", file} }
func caddyArgs(tool, _, file string, _ int) []string {
	return []string{tool, "run", "--adapter", "caddyfile", "--config", file}
}
func sidegateArgs(tool, _, file string, _ int) []string {
	return []string{tool, "run", "-config", file}
}
func redisArgs(tool, _, file string, _ int) []string { return []string{tool, file} }
func varnishArgs(tool, dir, file string, port int) []string {
	return []string{
		tool, "-F", "-j", "none", "-n", filepath.Join(dir, "varnish"), "-f", file, "-a", fmt.Sprintf("127.0.0.1:%d", port), "-T", "none",
		"-s", "malloc,256m", "-p", "thread_pools=1", // one core
	}
}
func profileArgs(tool, dir, file string, _ int) []string {
	return []string{tool, "run", "-config", file, "-cpuprofile", filepath.Join(dir, "cpu.pprof")}
}

// kinds are the processes that a bed can start: contenders have core 0 and the
// backend core 1, but for sidegate-2, which has both.
func kinds() map[string]kind {
	return map[string]kind{
		"backend":            {"nginx", backendConf, "backend.conf", nginxArgs, "1", "1", false},
		"redis":              {"redis-server", redisConf, "redis.conf", redisArgs, "1", "1", false},
		"nginx":              {"nginx", nginxConf, "nginx.conf", nginxArgs, "0", "1", false},
		"haproxy":            {"haproxy", haproxyConf, "haproxy.conf", haproxyArgs, "0", "1", false},
		"caddy":              {"caddy", caddyConf, "Caddyfile", caddyArgs, "0", "1", false},
		"sidegate":           {"sidegate", sidegateConf, "sidegate.hcl", sidegateArgs, "0", "1", false},
		"sidegate-profile":   {"sidegate", sidegateConf, "sidegate-profile.hcl", profileArgs, "0", "1", true},
		"sidegate-policies":  {"sidegate", sidegateConf, "sidegate-policies.hcl", sidegateArgs, "0", "1", true},
		"nginx-each":         {"nginx", nginxEachConf, "nginx-each.conf", nginxArgs, "0", "1", false},
		"haproxy-each":       {"haproxy", haproxyEachConf, "haproxy-each.conf", haproxyArgs, "0", "1", false},
		"sidegate-each":      {"sidegate", sidegateEachConf, "sidegate-each.hcl", sidegateArgs, "0", "1", false},
		"sidegate-usage":     {"sidegate", sidegateEachConf, "sidegate-usage.hcl", sidegateArgs, "0", "1", false},
		"sidegate-2":         {"sidegate", sidegateConf, "sidegate-2.hcl", sidegateArgs, "0,1", "2", false},
		"sidegate-json":      {"sidegate", sidegateConf, "sidegate-json.hcl", sidegateArgs, "0", "1", false},
		"sidegate-combined":  {"sidegate", sidegateConf, "sidegate-combined.hcl", sidegateArgs, "0", "1", false},
		"sidegate-trace":     {"sidegate", sidegateConf, "sidegate-trace.hcl", sidegateArgs, "0", "1", false},
		"sidegate-trace-all": {"sidegate", sidegateConf, "sidegate-trace-all.hcl", sidegateArgs, "0", "1", false},
		"varnish":            {"varnishd", varnishConf, "varnish.vcl", varnishArgs, "0", "1", false},
	}
}

func newBed(ctx context.Context, dir string, tools map[string]string) (*bed, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &bed{ctx: ctx, dir: dir, self: self, tools: tools}
	if err := errors.Join(certificate(dir), b.credentials()); err != nil {
		return nil, err
	}
	for name, size := range map[string]int{"small": 45, "kib": 1 << 10, "large": 1 << 20} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "text"), orders(20_000), 0o644); err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	b.backend, b.redis = ports[0], ports[1]
	if _, err = b.start("backend"); err == nil {
		_, err = b.start("redis")
	}
	return b, err
}

// get is the process of that name, started if it isn't up yet.
func (b *bed) get(name string) (*process, error) {
	for _, p := range b.running {
		if p.name == name {
			return p, nil
		}
	}
	p, err := b.start(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

func (b *bed) start(name string) (*process, error) {
	k, ok := kinds()[name]
	if !ok {
		return nil, errors.New("no such contender")
	}
	p := &process{name: name, ports: map[string]int{"plain": b.backend}}
	switch name {
	case "backend":
	case "redis":
		p.ports["plain"] = b.redis
	default:
		names := append([]string{"plain", "tls", "policies", "tcp", "quic"}, eachPorts...)
		free, err := freePorts(len(names))
		if err != nil {
			return nil, err
		}
		for i, n := range names {
			p.ports[n] = free[i]
		}
	}
	file := filepath.Join(b.dir, k.file)
	if err := b.configure(p, k, file); err != nil {
		return nil, err
	}
	args := append([]string{"-c", k.cores}, k.args(b.tools[k.tool], b.dir, file, p.ports["plain"])...)
	p.cmd = exec.Command("taskset", args...)
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS="+k.procs, "HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir, "XDG_DATA_HOME="+b.dir)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // not to outlive us
	var said bytes.Buffer
	p.cmd.Stderr = &said
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	b.running = append(b.running, p)
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end) && b.ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.ports["plain"])); err == nil {
			return p, c.Close()
		}
	}
	b.end(p)
	return nil, fmt.Errorf("didn't start: %s", said.String())
}

func (b *bed) configure(p *process, k kind, file string) error {
	t, err := template.New(p.name).Parse(k.config)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	err = t.Execute(&text, map[string]any{
		"Dir": b.dir, "Name": p.name, "Policies": k.policies, "APIKey": apiKey, "APIKeySum": fmt.Sprintf("%x", sha256.Sum256([]byte(apiKey))), "Backend": b.backend, "Redis": b.redis, "Ports": p.ports,
		"Password": apiPassword, "PasswordHash": passwordHash, "Issuer": issuer, "Routes": eachRoutes(),
		"Cert": filepath.Join(b.dir, "cert.pem"), "Key": filepath.Join(b.dir, "key.pem"), "Both": filepath.Join(b.dir, "both.pem"),
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, text.Bytes(), 0o600)
}

// end kills a process of ours.
func (b *bed) end(p *process) {
	_ = p.cmd.Process.Kill() // a throw-away process
	_ = p.cmd.Wait()
	b.forget(p)
}

// forget takes a process that has ended off the list.
func (b *bed) forget(p *process) {
	b.running = slices.DeleteFunc(b.running, func(o *process) bool { return o == p })
}

func (b *bed) stop() {
	for len(b.running) > 0 {
		b.end(b.running[len(b.running)-1])
	}
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are found
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
