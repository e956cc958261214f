// Command bench measures what proxied requests cost in CPU, latency and memory,
// for sidegate and its peers side by side in one run: nginx, HAProxy and, for
// HTTP/3, Caddy, for what is stored, Varnish.
//
// Each contender has core 0 for itself and one worker; the load generator and
// the backend (nginx, a small fixed answer) have core 1. The contenders of a
// work are up at once and take turns, round after round, so that whatever else
// the machine does hits them alike. A cost is the process's run time by the
// scheduler's account (/proc/PID/task/*/schedstat) over the requests answered;
// ratios are medians over same-round pairs with their 95 % bootstrap interval.
// For large answers the load generator's is added, too: over loopback, how one
// sends moves work from one to the other.
// Requests per second aren't a figure here: the load generator's core is the
// limit as often as not.
//
// As root it runs in a network namespace of its own with the reno congestion
// control, because bbr's pacing adds noise. Nothing but loopback is used, and
// the run ends by itself and ends only what it started.
//
// It is for comparing on one machine, not for absolute numbers, and isn't a
// test: nothing fails when a ratio is bad. RESULTS.md has the last run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// options are the command line's.
type options struct {
	binary, only string
	profile      string // where to write one, instead of measuring
	rounds       int
	length       time.Duration
	held         int // idle connections
	settle       time.Duration
}

func main() {
	runtime.LockOSThread() // children die with the thread that started them
	o := options{rounds: 9, length: 2 * time.Second, held: 10000, settle: 15 * time.Second}
	quick := flag.Bool("quick", false, "3 rounds of 1 s instead of 9 of 2 s, 2,000 idle connections")
	flag.StringVar(&o.binary, "sidegate", "bin/sidegate", "the binary to measure")
	flag.StringVar(&o.only, "only", "", "run only the works whose name contains this")
	flag.StringVar(&o.profile, "profile", "", "measure nothing, but write sidegate's CPU profile under all loads to this file")
	flag.IntVar(&o.rounds, "rounds", o.rounds, "rounds, beside the one that warms up")
	flag.DurationVar(&o.length, "length", o.length, "length of a turn")
	flag.IntVar(&o.held, "held", o.held, "idle connections to hold")
	flag.DurationVar(&o.settle, "settle", o.settle, "how long they are idle before memory is read")
	var g generator
	flag.StringVar(&g.kind, "load", "", "internal: be this load generator")
	flag.StringVar(&g.address, "address", "", "internal")
	flag.IntVar(&g.conns, "conns", 0, "internal")
	flag.IntVar(&g.streams, "streams", 0, "internal")
	flag.IntVar(&g.rate, "rate", 0, "internal")
	flag.Parse()
	if *quick {
		o.rounds, o.length, o.held, o.settle = 3, time.Second, 2000, 5*time.Second
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var err error
	switch {
	case g.kind != "":
		g.length = o.length
		err = g.run(ctx)
	case os.Getuid() == 0 && os.Getenv(inside) == "":
		err = enter()
	default:
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// inside marks the copy of this program that runs in the namespace.
const inside = "SIDEGATE_BENCH_NAMESPACE"

// enter runs this program again in a network namespace of its own.
func enter() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil { // not allowed here, in a container perhaps
		cmd.SysProcAttr.Cloneflags = 0
		cmd = &exec.Cmd{Path: cmd.Path, Args: cmd.Args, Env: cmd.Env, Stdout: cmd.Stdout, Stderr: cmd.Stderr, SysProcAttr: cmd.SysProcAttr}
		return cmd.Run()
	}
	return cmd.Wait()
}

// prepareNetwork brings loopback up in a new namespace and sets reno.
func prepareNetwork() error {
	if os.Getenv(inside) == "" {
		return nil
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("loopback of the namespace: %w: %s", err, out)
	}
	return os.WriteFile("/proc/sys/net/ipv4/tcp_congestion_control", []byte("reno"), 0o644)
}

func run(ctx context.Context, o options) error {
	if err := prepareNetwork(); err != nil {
		return err
	}
	tools, err := findTools(o.binary)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sidegate-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	bed, err := newBed(ctx, dir, tools)
	if err != nil {
		return err
	}
	defer bed.stop()
	if o.profile != "" {
		return bed.profile(o)
	}
	fmt.Printf("%d rounds of %s, one core each, %s, %s, congestion control %s\n\n", o.rounds, o.length, runtime.Version(),
		kernel("osrelease", "kernel"), kernel("tcp_congestion_control", "net/ipv4"))
	return errors.Join(bed.costs(o), bed.latencies(o), bed.memories(o), bed.sidecars(o))
}

// findTools finds every program that a run starts, or says which are missing.
func findTools(binary string) (map[string]string, error) {
	tools := map[string]string{}
	var missing []string
	for _, name := range []string{"nginx", "haproxy", "wrk", "h2load", "taskset", "caddy", "redis-server", "varnishd"} {
		path, err := look(name)
		if err != nil {
			missing = append(missing, name)
		}
		tools[name] = path
	}
	if missing != nil {
		return nil, fmt.Errorf("%s: not installed: run .ci/setup bench", strings.Join(missing, ", "))
	}
	path, err := filepath.Abs(binary)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: run make build", err)
	}
	tools["sidegate"] = path
	return tools, nil
}

func look(tool string) (string, error) {
	for _, dir := range []string{os.Getenv("SIDEGATE_TOOLS"), ".cache/tools"} {
		if p, err := filepath.Abs(filepath.Join(dir, tool)); dir != "" && err == nil {
			if _, err := os.Stat(p); err == nil {
				return p, nil
			}
		}
	}
	if p, err := exec.LookPath(tool); err == nil {
		return p, nil
	}
	p := filepath.Join("/usr/sbin", tool)
	_, err := os.Stat(p)
	return p, err
}

func kernel(name, folder string) string {
	b, err := os.ReadFile(filepath.Join("/proc/sys", folder, name))
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
