package main

import (
	"fmt"
	"strings"
	"time"
)

// work is one kind of load and who takes it.
type work struct {
	name    string
	goal    string // issue 3's, for the peers in order
	tool    string // wrk, h2load, or a load generator of ours
	tls     bool
	path    string
	headers []string
	conns   int
	streams int      // on each connection; 0: HTTP/1.1
	run     []string // contenders as PROCESS:PORT or PROCESS:PORT@HOST; the first is compared to the others
}

func works() []work {
	plain := []string{"sidegate:plain", "nginx:plain", "haproxy:plain"}
	tls := []string{"sidegate:tls", "nginx:tls", "haproxy:tls"}
	return []work{
		{name: "HTTP/1.1 keep-alive, plain", goal: "0.85, 0.88", tool: "wrk", path: "/small", conns: 64, run: plain},
		{name: "HTTP/1.1 keep-alive, plain, browser's fields", goal: "0.85, 0.88", tool: "wrk", path: "/small", conns: 64, headers: browser, run: plain},
		{name: "HTTP/1.1 keep-alive, plain, against a bare TCP relay", goal: "1.1", tool: "wrk", path: "/small", conns: 64, run: []string{"sidegate:plain", "haproxy:tcp"}},
		{name: "HTTP/1.1 keep-alive, TLS 1.3", goal: "0.85, 0.85", tool: "wrk", tls: true, path: "/small", conns: 64, run: tls},
		{name: "HTTP/1.1 keep-alive, TLS 1.3, browser's fields", goal: "0.85, 0.85", tool: "wrk", tls: true, path: "/small", conns: 64, headers: browser, run: tls},
		{name: "HTTP/2 TLS, 16 x 16", goal: "0.6, 0.9", tool: "h2load", tls: true, path: "/small", conns: 16, streams: 16, run: tls},
		{name: "HTTP/3, 16 x 16", goal: "0.45", tool: "http3", conns: 16, streams: 16, run: []string{"sidegate:quic", "caddy:plain"}},
		{name: "new TLS 1.3 connection a request, full handshake", goal: "1.0, -", tool: "handshake", conns: 8, run: tls},
		{name: "new TLS 1.3 connection a request, resumed", goal: "1.0, -", tool: "resume", conns: 8, run: tls},
		{name: "1 MiB responses, plain", goal: "0.5, -", tool: "wrk", path: "/large", conns: 16, run: plain},
		{name: "1 MiB responses, TLS 1.3", goal: "1.0, -", tool: "wrk", tls: true, path: "/large", conns: 16, run: tls},
		{name: "HTTP/1.1 plain, with API key, rate limit and access log", goal: "1.15, under 1, -", tool: "wrk", path: "/small", conns: 64, headers: []string{"X-API-Key: " + apiKey},
			run: []string{"sidegate-policies:plain", "sidegate:plain", "nginx:policies", "haproxy:policies"}},
		{name: "HTTP/1.1 plain, access log in JSON", tool: "wrk", path: "/small", conns: 64, run: []string{"sidegate-json:plain", "sidegate:plain", "nginx-each:log"}},
		{name: "HTTP/1.1 plain, access log combined", tool: "wrk", path: "/small", conns: 64, run: []string{"sidegate-combined:plain", "sidegate:plain", "nginx-each:log"}},
		{name: "HTTP/1.1 plain, traces of 1 %", tool: "wrk", path: "/small", conns: 64, run: []string{"sidegate-trace:plain", "sidegate:plain"}},
		{name: "HTTP/1.1 plain, traces of all", tool: "wrk", path: "/small", conns: 64, run: []string{"sidegate-trace-all:plain", "sidegate:plain"}},
		{name: "HTTP/1.1 plain, two cores against one", goal: "1.11 (1.8 x the throughput)", tool: "wrk", path: "/small", conns: 64, run: []string{"sidegate-2:plain", "sidegate:plain"}},
	}
}

// costs measures and prints the CPU per request of every work.
func (b *bed) costs(o options) error {
	head := false
	for _, w := range append(works(), b.policyWorks()...) {
		if !strings.Contains(w.name, o.only) {
			continue
		}
		if !head {
			fmt.Println("| work | ratio of CPU per request [95 %] | goal, at most | us of CPU per request |\n|---|---|---|---|")
			head = true
		}
		cost, both, err := b.measure(w, o)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		var ratios, each []string
		for i, name := range w.run {
			each = append(each, fmt.Sprintf("%s %.1f", label(name), median(cost[i])))
			if i > 0 {
				ratios = append(ratios, fmt.Sprintf("%s %s", label(name), ratioOf(cost[0], cost[i])))
			}
		}
		if w.path == "/large" {
			each = append(each, beside(w, both))
		}
		fmt.Printf("| %s | %s | %s | %s |\n", w.name, strings.Join(ratios, ", "), w.goal, strings.Join(each, ", "))
	}
	return nil
}

// beside are the costs with the client's. Over loopback what a large answer costs
// one side of the socket, another way of sending it may cost the other: with a
// small window, the client's acknowledgements send, in the client's time.
func beside(w work, both [][]float64) string {
	var list []string
	for i, name := range w.run {
		one := fmt.Sprintf("%s %.1f", label(name), median(both[i]))
		if i > 0 {
			one += fmt.Sprintf(" (%s)", ratioOf(both[0], both[i]))
		}
		list = append(list, one)
	}
	return "with the client's: " + strings.Join(list, ", ")
}

// label is a contender's name for readers: its process, and its port or host
// where that says how it works.
func label(name string) string {
	process, port, _ := strings.Cut(name, ":")
	port, host, ok := strings.Cut(port, "@")
	process, each := strings.CutSuffix(process, "-each")
	if ok {
		return process + " " + host
	}
	if each {
		return process
	}
	if port == "tcp" || port == "policies" {
		return process + " " + port
	}
	return process
}

// measure returns the microseconds of CPU per request, by contender and round:
// the contender's, and with the client's.
func (b *bed) measure(w work, o options) (cost, both [][]float64, err error) {
	cost, both = make([][]float64, len(w.run)), make([][]float64, len(w.run))
	for round := range o.rounds + 1 {
		for turn := range w.run {
			i := (turn + round) % len(w.run) // nobody always follows the same one
			us, client, err := b.turn(w, w.run[i], o.length)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", w.run[i], err)
			}
			if round > 0 { // the first round warms up
				cost[i], both[i] = append(cost[i], us), append(both[i], us+client)
			}
		}
	}
	return cost, both, nil
}

func (b *bed) turn(w work, contender string, length time.Duration) (us, client float64, err error) {
	process, port, _ := strings.Cut(contender, ":")
	port, host, ok := strings.Cut(port, "@")
	if ok {
		w.headers = append([]string{"Host: " + host}, w.headers...)
	}
	p, err := b.get(process)
	if err != nil {
		return 0, 0, err
	}
	before, err := cpuTime(p.pid())
	if err != nil {
		return 0, 0, err
	}
	n, used, err := b.load(w, p.ports[port], length)
	if err != nil {
		return 0, 0, err
	}
	after, err := cpuTime(p.pid())
	return float64(after-before) / 1000 / float64(n), float64(used.Nanoseconds()) / 1000 / float64(n), err
}
