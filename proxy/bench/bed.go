package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// bed holds the processes of a run.
type bed struct {
	dir        string
	backend    *process
	contenders []*process
}

// process is a contender or the backend.
type process struct {
	name       string
	cmd        *exec.Cmd
	plain, tls int // ports
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// values are what the configuration templates may name.
type values struct {
	Dir, Cert, Key, Both   string
	Backend, Plain, Secure int
}

func newBed(dir, binary string) (*bed, error) {
	b := &bed{dir: dir}
	if err := certificate(dir); err != nil {
		return nil, err
	}
	ports, err := freePorts(7)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		size int
	}{{"small", 45}, {"large", 1 << 20}} {
		if err := os.WriteFile(filepath.Join(dir, f.name), bytes.Repeat([]byte("x"), f.size), 0o644); err != nil {
			return nil, err
		}
	}
	v := values{
		Dir: dir, Backend: ports[0],
		Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), Both: filepath.Join(dir, "both.pem"),
	}
	abs, err := filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	nginx, err := look("nginx")
	if err != nil {
		return nil, err
	}
	haproxy, err := look("haproxy")
	if err != nil {
		return nil, err
	}
	steps := []struct {
		name, core, config string
		plain, tls         int
		args               func(file string) []string
	}{
		{"backend", "1", backendConf, ports[0], 0, func(f string) []string { return []string{nginx, "-p", dir, "-c", f} }},
		{"nginx", "0", nginxConf, ports[1], ports[2], func(f string) []string { return []string{nginx, "-p", dir, "-c", f} }},
		{"haproxy", "0", haproxyConf, ports[3], ports[4], func(f string) []string { return []string{haproxy, "-f", f} }},
		{"sidegate", "0", sidegateConf, ports[5], ports[6], func(f string) []string { return []string{abs, "run", "-config", f} }},
	}
	for _, s := range steps {
		v.Plain, v.Secure = s.plain, s.tls
		p, err := b.start(s.name, s.core, s.config, v, s.args)
		if err != nil {
			b.stop()
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		if s.name == "backend" {
			b.backend = p
		} else {
			b.contenders = append(b.contenders, p)
		}
	}
	return b, nil
}

func (b *bed) start(name, core, config string, v values, args func(string) []string) (*process, error) {
	file := filepath.Join(b.dir, name+".conf")
	if name == "sidegate" {
		file = filepath.Join(b.dir, name+".hcl")
	}
	var text bytes.Buffer
	t, err := template.New(name).Parse(config)
	if err != nil {
		return nil, err
	}
	if err := t.Execute(&text, v); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("taskset", append([]string{"-c", core}, args(file)...)...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: cmd, plain: v.Plain, tls: v.Secure}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", v.Plain)); err == nil {
			return p, c.Close()
		}
	}
	_ = cmd.Process.Kill() // it never served
	_ = cmd.Wait()
	return nil, fmt.Errorf("didn't start: %s", said.String())
}

func (b *bed) stop() {
	for _, p := range append(b.contenders, b.backend) {
		if p == nil {
			continue
		}
		_ = p.cmd.Process.Kill() // throw-away processes
		_ = p.cmd.Wait()
	}
}

var (
	wrkCount    = regexp.MustCompile(`(\d+) requests in`)
	wrkBad      = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	h2loadCount = regexp.MustCompile(`(\d+) succeeded, (\d+) failed`)
)

// load runs the load generator against a contender and returns how many
// requests were answered; a failed one fails the run.
func (b *bed) load(w work, c *process, length time.Duration) (int, error) {
	scheme, port := "http", c.plain
	if w.tls {
		scheme, port = "https", c.tls
	}
	url := fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, port, w.path)
	seconds := strconv.Itoa(int(length.Seconds()))
	args := []string{"-c", "1"}
	if w.tool == "wrk" {
		args = append(args, "wrk", "-t1", "-c"+strconv.Itoa(w.conns), "-d"+seconds+"s", url)
	} else {
		args = append(args, "h2load", "-t1", "-c"+strconv.Itoa(w.conns), "-m"+strconv.Itoa(w.h2), "-D"+seconds, url)
	}
	out, err := exec.Command("taskset", args...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	if w.tool == "wrk" {
		if bad := wrkBad.FindSubmatch(out); bad != nil {
			return 0, fmt.Errorf("%s answers weren't 2xx", bad[1])
		}
		return number(wrkCount.FindSubmatch(out))
	}
	m := h2loadCount.FindSubmatch(out)
	if m == nil || string(m[2]) != "0" {
		return 0, fmt.Errorf("failed requests: %s", out)
	}
	return number(m)
}

func number(m [][]byte) (int, error) {
	if m == nil {
		return 0, errors.New("the load generator printed no count")
	}
	n, err := strconv.Atoi(string(m[1]))
	if err == nil && n == 0 {
		err = errors.New("no request was answered")
	}
	return n, err
}

// cpuTime is the nanoseconds that a process's threads have run.
func cpuTime(pid int) (int64, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	var sum int64
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // a thread that ended
		}
		n, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
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

// certificate writes an ECDSA P-256 certificate, as most public ones are now.
func certificate(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	priv := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "cert.pem"), cert, 0o644),
		os.WriteFile(filepath.Join(dir, "key.pem"), priv, 0o600),
		os.WriteFile(filepath.Join(dir, "both.pem"), append(cert, priv...), 0o600),
	)
}
