package sidecar

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
)

// TestMain is also one of many processes, when told so.
func TestMain(m *testing.M) {
	if address := os.Getenv("SIDEGATE_TEST_FLEET"); address != "" {
		oneOfMany(address)
		return
	}
	os.Exit(m.Run())
}

// oneOfMany registers a service and watches two, until its input ends.
func oneOfMany(address string) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	client, err := consul.New(consul.Config{Address: address}, consul.Deps{Log: log, Blocking: 2})
	if err != nil {
		panic(err)
	}
	port, err := strconv.Atoi(os.Getenv("SIDEGATE_TEST_PORT"))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var once [2]sync.Once
	var known sync.WaitGroup
	for i, upstream := range []string{"billing", "stock"} {
		known.Add(1)
		all.Go(func() {
			_ = client.Watch(ctx, discovery.Query{Service: upstream}, func([]discovery.Instance) { once[i].Do(known.Done) }) // nil
		})
	}
	r := New(client, Deps{Log: log})
	all.Go(func() { r.Run(ctx) })
	s := orders()
	s.ID, s.Port = ID("orders", "", port), port
	r.Set([]Service{s})
	for r.Status()[0].State != Registered {
		time.Sleep(time.Millisecond)
	}
	known.Wait()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // its end is all it is for
	cancel()
	all.Wait()
}

// connections counts the agent's established ones.
func (a *agent) connections(t *testing.T) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skipf("connections can't be counted here: %v", err)
	}
	const established = "01"
	local := fmt.Sprintf(":%04X", a.ports[0])
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], local) && f[3] == established {
			n++
		}
	}
	return n
}

// 50 processes on a host, each with a service and two that it calls, leave the
// agent's 200 connections for others, also while they come up and when the agent
// was away.
func TestFleetOfProcesses(t *testing.T) {
	a := newAgent(t, false, "")
	const processes = 50
	var up sync.WaitGroup
	for i := range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "SIDEGATE_TEST_FLEET="+a.address(), fmt.Sprintf("SIDEGATE_TEST_PORT=%d", 9000+i), "GOMAXPROCS=1")
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		output, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := input.Close(); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
		up.Go(func() {
			b := make([]byte, 16)
			_, _ = output.Read(b) // its end shows in what is registered
		})
	}
	most := a.most(t, "all come up", func() bool { return a.instances() == processes })
	up.Wait()
	t.Logf("coming up: at most %d connections", most)
	var rest []int
	begun := time.Now()
	a.most(t, "some seconds of rest", func() bool {
		rest = append(rest, a.connections(t))
		return time.Since(begun) > 8*time.Second
	})
	slices.Sort(rest)
	t.Logf("at rest: median %d, at most %d connections", rest[len(rest)/2], rest[len(rest)-1])
	if n := rest[len(rest)/2]; n > 3*processes-20 {
		t.Errorf("%d connections at rest, want about 2 for each of %d processes", n, processes)
	}
	a.kill(t)
	a.start(t)
	begun = time.Now()
	most = a.most(t, "all are registered at the agent that forgot", func() bool { return a.instances() == processes })
	t.Logf("after the agent was away: all registered after %v, at most %d connections", time.Since(begun), most)
	if most > 190 {
		t.Errorf("%d connections at once, of the 200 that the agent allows", most)
	}
}

// instances counts those that are passing.
func (a *agent) instances() int {
	var list []any
	if a.ask(&list, "health/service/orders", map[string][]string{"passing": {""}}) != nil {
		return -1
	}
	return len(list)
}

// most counts connections until done.
func (a *agent) most(t *testing.T, what string, done func() bool) (most int) {
	t.Helper()
	eventually(t, what, func() bool {
		most = max(most, a.connections(t))
		return done()
	})
	return most
}
