// Command bench measures what a proxied request costs in CPU, for sidegate,
// nginx and HAProxy side by side in one run.
//
// Each contender has core 0 for itself and one worker; the load generator and
// the backend (nginx, a small fixed answer) have core 1. All contenders are up
// at once and take turns, round after round, so that whatever else the machine
// does hits them alike. The figure is the process's run time by the scheduler's
// account (/proc/PID/task/*/schedstat) over the requests answered; ratios are
// medians over same-round pairs. Requests per second aren't a figure here: the
// load generator's core is the limit as often as not.
//
// It is for comparing on one machine, not for absolute numbers, and isn't a
// test: nothing fails when a ratio is bad. See RESULTS.md for the last run.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() {
	quick := flag.Bool("quick", false, "3 rounds of 1 s instead of 9 of 2 s")
	binary := flag.String("sidegate", "bin/sidegate", "the binary to measure")
	only := flag.String("only", "", "run only the works whose name contains this")
	flag.Parse()
	if err := run(*binary, *quick, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// work is one kind of load.
type work struct {
	name  string
	tool  string // wrk or h2load
	tls   bool
	path  string
	conns int
	h2    int // streams on each connection; 0: HTTP/1.1
}

var works = []work{
	{name: "HTTP/1.1 keep-alive, plain", tool: "wrk", path: "/small", conns: 64},
	{name: "HTTP/1.1 keep-alive, TLS 1.3", tool: "wrk", tls: true, path: "/small", conns: 64},
	{name: "HTTP/2 TLS, 16 x 16", tool: "h2load", tls: true, path: "/small", conns: 16, h2: 16},
	{name: "1 MiB responses, plain", tool: "wrk", path: "/large", conns: 16},
	{name: "1 MiB responses, TLS 1.3", tool: "wrk", tls: true, path: "/large", conns: 16},
}

func run(binary string, quick bool, only string) error {
	for _, tool := range []string{"nginx", "haproxy", "wrk", "h2load", "taskset"} {
		if _, err := look(tool); err != nil {
			return fmt.Errorf("%s isn't installed: run .ci/setup bench", tool)
		}
	}
	dir, err := os.MkdirTemp("", "sidegate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	bed, err := newBed(dir, binary)
	if err != nil {
		return err
	}
	defer bed.stop()
	rounds, length := 9, 2*time.Second
	if quick {
		rounds, length = 3, time.Second
	}
	fmt.Printf("%d rounds of %s, one core each, %s, %s\n\n", rounds, length, runtime.Version(), kernel())
	fmt.Println("| work | sidegate / nginx | sidegate / HAProxy | sidegate us | nginx us | HAProxy us |")
	fmt.Println("|---|---|---|---|---|---|")
	for _, w := range works {
		if !strings.Contains(w.name, only) {
			continue
		}
		cost, err := bed.measure(w, rounds, length)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		fmt.Printf("| %s | %.2f | %.2f | %.1f | %.1f | %.1f |\n", w.name,
			ratio(cost["sidegate"], cost["nginx"]), ratio(cost["sidegate"], cost["haproxy"]),
			median(cost["sidegate"]), median(cost["nginx"]), median(cost["haproxy"]))
	}
	return nil
}

// measure returns the microseconds of CPU per request, by contender and round.
func (b *bed) measure(w work, rounds int, length time.Duration) (map[string][]float64, error) {
	cost := map[string][]float64{}
	for round := range rounds + 1 {
		for _, c := range b.contenders {
			before, err := cpuTime(c.pid())
			if err != nil {
				return nil, err
			}
			n, err := b.load(w, c, length)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			after, err := cpuTime(c.pid())
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first round warms up
				cost[c.name] = append(cost[c.name], float64(after-before)/1000/float64(n))
			}
		}
	}
	return cost, nil
}

// ratio is the median of same-round ratios.
func ratio(a, b []float64) float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return median(r)
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 1 {
		return s[len(s)/2]
	}
	return (s[len(s)/2-1] + s[len(s)/2]) / 2
}

func look(tool string) (string, error) {
	if p, err := exec.LookPath(tool); err == nil {
		return p, nil
	}
	p := filepath.Join("/usr/sbin", tool)
	_, err := os.Stat(p)
	return p, err
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(b))
}
