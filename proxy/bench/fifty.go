package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// starts measures how long it takes from exec until the agent has the service.
func (f *fleet) starts(o options) error {
	const times = 21
	var took []float64
	for i := range times {
		name := fmt.Sprintf("start-%d", i)
		path, err := f.sidecar(name, "orders", "", 0)
		if err != nil {
			return err
		}
		before, index, err := f.instances("orders", 0)
		if err != nil {
			return err
		}
		from := time.Now()
		p, err := f.launch(name, "0,1", 0, f.tools["sidegate"], "sidecar", "-config", path)
		if err != nil {
			return err
		}
		for n := before; n <= before; {
			if n, index, err = f.instances("orders", index); err != nil {
				return err
			}
			if time.Since(from) > 10*time.Second {
				return errors.New("a sidecar isn't registered after 10 s")
			}
		}
		took = append(took, float64(time.Since(from).Microseconds())/1000)
		if err := f.leave(p); err != nil {
			return err
		}
	}
	slices.Sort(took)
	fmt.Printf("\nStart to registered, exec until the agent tells of the service, with certificates, %d starts: median %.0f ms, %.0f to %.0f (goal 200)\n", times, median(took), took[0], took[times-1])
	return nil
}

// leave ends a sidecar, which takes its service out of the agent.
func (f *fleet) leave(p *process) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = p.cmd.Wait() // nothing more is asked of it
	f.forget(p)
	return nil
}

// instances are those of a service that the agent knows, whatever their health. With an
// index it waits for a change since.
func (f *fleet) instances(service string, index uint64) (n int, next uint64, err error) {
	r, err := f.http.Get(fmt.Sprintf("http://127.0.0.1:%d/v1/health/service/%s?index=%d&wait=5s", f.agent, service, index))
	if err != nil {
		return 0, 0, err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return 0, 0, errors.New(r.Status)
	}
	var list []struct{}
	if err := decode(r.Body, &list); err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(r.Header.Get("X-Consul-Index"), &next)
	return len(list), next, err
}

// fifty has fifty sidecars at once, each of which calls the next one.
func (f *fleet) fifty(o options) error {
	const n = 50
	free, err := portsBelow(n)
	if err != nil {
		return err
	}
	service := func(i int) string { return fmt.Sprintf("service-%d", i%n) }
	var paths []string
	for i := range n {
		if err := f.issue("issue", "-service", service(i)); err != nil {
			return err
		}
		path, err := f.sidecar(service(i), service(i), service(i+1), free[i])
		if err != nil {
			return err
		}
		paths = append(paths, path)
	}
	from := time.Now()
	var list []*process
	for i, path := range paths {
		p, err := f.launch(service(i), "0,1", 0, f.tools["sidegate"], "sidecar", "-config", path)
		if err != nil {
			return err
		}
		list = append(list, p)
	}
	for i := range n {
		if err := f.await(service(i), 1); err != nil {
			return err
		}
	}
	healthy := time.Since(from)
	for _, port := range free {
		if err := awaitAnswer(port); err != nil {
			return err
		}
	}
	time.Sleep(o.settle)
	before := time.Now()
	cpu, err := sumOf(list)
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Second)
	later, err := sumOf(list)
	if err != nil {
		return err
	}
	share := float64(later-cpu) / float64(time.Since(before).Nanoseconds()) / n
	var rss, pss, own, most int
	for _, p := range list {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.pid()))
		if err != nil {
			return err
		}
		rss, pss, own = rss+field(text, "Rss:"), pss+field(text, "Pss:"), own+field(text, "Anonymous:")
		most = max(most, field(text, "Rss:"))
	}
	for _, port := range free {
		if err := answers(port); err != nil {
			return err
		}
	}
	tcp, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return err
	}
	connections := strings.Count(string(tcp), fmt.Sprintf(" 0100007F:%04X 01 ", f.agent)) // remote address, established
	mib := func(kib int) float64 { return float64(kib) / 1024 }
	fmt.Printf("\nFifty sidecars, each calling the next with certificates: all healthy after %.1f s, all serve. At rest for %s: resident %.1f MiB each (most %.1f), %.1f their own; with shared pages divided up %.0f MiB for all. %d connections to the agent, %.2f %% of a core each.\n",
		healthy.Seconds(), o.settle, mib(rss)/n, mib(most), mib(own)/n, mib(pss), connections, 100*share)
	for _, p := range list {
		f.end(p)
	}
	return nil
}

// portsBelow finds ports below the range that the kernel gives out by itself: one of
// fifty sidecars would get one that was free before.
func portsBelow(n int) (ports []int, err error) {
	for port := 20000; len(ports) < n && port < 30000; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // taken
		}
		_ = l.Close() // only tried
		ports = append(ports, port)
	}
	if len(ports) < n {
		return nil, errors.New("too few free ports from 20000 on")
	}
	return ports, nil
}

func sumOf(list []*process) (sum int64, err error) {
	for _, p := range list {
		n, err := cpuTime(p.pid())
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
