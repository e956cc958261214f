package charge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// successor starts another ledger on the same folder, as a process does that takes
// over.
func (r *rig) successor() *rig {
	next := &rig{t: r.t, dir: r.dir, billing: r.billing, server: r.server}
	next.start()
	r.t.Cleanup(next.end)
	return next
}

func (r *rig) drained() {
	r.t.Helper()
	eventually(r.t, func() error {
		if n := r.l.Status().Draining; n > 0 {
			return fmt.Errorf("%d processes drain", n)
		}
		return nil
	})
}

const paidBlock = "meter = \"m\"\nunits = \"1\"\nmode = %q\nlease = \"50\"\nidempotency = \"1h\""

func paidBy(mode string) string { return fmt.Sprintf(paidBlock, mode) }

// TestYield: what was in flight is finished by the old one, and new requests are
// charged on both sides. The successor takes in what the old one leaves.
func TestYield(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		p := r.policy(paidBy(mode))
		r.get(p, 200)
		flying, failing := request(t, "GET https://api.example.com/a"), request(t, "GET https://api.example.com/b")
		if _, err := p.Request(flying); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Request(failing); err != nil {
			t.Fatal(err)
		}
		if err := NewLedger(Deps{Log: quiet(), Path: r.dir}).open(); !errors.Is(err, errInUse) {
			t.Fatalf("opened while it is in use: %v", err)
		}
		if err := r.l.Yield(); err != nil {
			t.Fatal(err)
		}
		if err := r.l.Yield(); !errors.Is(err, errYielded) {
			t.Errorf("yielded twice: %v", err)
		}
		next := r.successor()
		q := next.policy(paidBy(mode))
		for range 3 {
			next.get(q, 200)
			r.get(p, 200)
		}
		policytest.Answer(flying, 200, "x")
		policytest.Answer(failing, 500, "x")
		for _, err := range []error{p.Response(flying), p.Response(failing)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		p.Finish(flying)
		p.Finish(failing)
		next.get(q, 200)
		if n := next.l.Status().Draining; n != 1 {
			t.Errorf("%d processes drain", n)
		}
		r.end()
		next.drained()
		next.balance(mode, "9")
		if mode != "lease" { // which has ended
			next.end()
		}
		if names, _ := filepath.Glob(filepath.Join(r.dir, "*")); len(names) != 2 {
			t.Errorf("files: %q", names)
		}
	})
}

// TestYieldResume: the successor fails, and the old one goes on as if nothing had been.
func TestYieldResume(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		p := r.policy(paidBy(mode))
		r.get(p, 200)
		flying := request(t, "GET https://api.example.com/a")
		if _, err := p.Request(flying); err != nil {
			t.Fatal(err)
		}
		for n := range 3 {
			if err := r.l.Yield(); err != nil {
				t.Fatal(err)
			}
			r.get(p, 200)
			if n > 0 {
				next := r.successor()
				q := next.policy(paidBy(mode))
				if n > 1 {
					next.get(q, 200)
				}
				next.end()
			}
			if err := r.l.Resume(); err != nil {
				t.Fatal(err)
			}
			r.get(p, 200)
		}
		policytest.Answer(flying, 200, "x")
		if err := p.Response(flying); err != nil {
			t.Fatal(err)
		}
		p.Finish(flying)
		r.balance(mode, "9")
		r.end()
		if names, _ := filepath.Glob(filepath.Join(r.dir, "*")); len(names) != 2 {
			t.Errorf("files: %q", names)
		}
	})
}

// TestYieldKey: requests with one Idempotency-Key are charged once, whichever process
// answers which of them, and not for one that failed.
func TestYieldKey(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		r := newRig(t)
		p := r.policy(paidBy(mode))
		answer := func(p *Policy, key string, status int) {
			t.Helper()
			x := request(t, "GET https://api.example.com/a", "Idempotency-Key: "+key)
			if _, fault := r.send(p, x, func() { policytest.Answer(x, status, "x") }); fault != nil {
				t.Fatal(fault)
			}
		}
		answer(p, "before", 200)
		begin := func(key string) func(status int) {
			t.Helper()
			x := request(t, "GET https://api.example.com/a", "Idempotency-Key: "+key)
			if _, err := p.Request(x); err != nil {
				t.Fatal(err)
			}
			return func(status int) {
				t.Helper()
				policytest.Answer(x, status, "x")
				if err := p.Response(x); err != nil {
					t.Fatal(err)
				}
				p.Finish(x)
			}
		}
		first, second, fails := begin("first"), begin("second"), begin("fails")
		if err := r.l.Yield(); err != nil {
			t.Fatal(err)
		}
		next := r.successor()
		q := next.policy(paidBy(mode))
		answer(p, "before", 200) // paid before
		answer(q, "before", 200)
		first(200)               // 2nd unit
		answer(q, "first", 200)  // paid by the old one
		answer(q, "second", 200) // 3rd
		second(200)              // paid by the successor
		fails(500)
		answer(q, "fails", 200) // 4th
		answer(p, "later", 200) // 5th
		answer(q, "later", 200)
		answer(q, "new", 200) // 6th
		answer(p, "new", 200)
		r.end()
		next.drained()
		for _, key := range []string{"before", "first", "second", "fails", "later", "new"} {
			answer(q, key, 200)
		}
		next.balance(mode, "6")
	})
}

// TestYieldCrash: a crash between the two writes leaves what is in flight in both
// journals, or what was charged just then in the drain alone. It is charged once, and in
// the totals.
func TestYieldCrash(t *testing.T) {
	for _, mode := range []string{modeEvent, modeReserve} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			l := NewLedger(Deps{Log: quiet(), Path: dir})
			if err := l.open(); err != nil {
				t.Fatal(err)
			}
			charge := func() *item {
				now := time.Now()
				r := record{ID: l.ids.next(now), At: now.UnixMilli(), To: "s", Mode: mode, Meter: "m", Units: int64(one), Consumer: "acme"}
				l.mu.Lock()
				defer l.mu.Unlock()
				e := &entry{record: r, acct: l.state.account("s", "acme", "m")}
				if mode == modeReserve {
					r.Type = isOpen
					e = l.log(&r)
				}
				e.State, e.holders = asked, 1
				return &item{e: e, units: int64(one)}
			}
			write := func() {
				t.Helper()
				if err := l.writeOnce(); err != nil {
					t.Fatal(err)
				}
			}
			known, late, open := charge(), charge(), charge()
			l.serve(known)
			write()
			l.serve(late) // which waits for the disk
			own, err := estate.Found(l.Path)
			if err != nil {
				t.Fatal(err)
			}
			l.mu.Lock()
			l.divide(own)
			ours := l.state.snapshot()
			l.mu.Unlock()
			next := journal{dir: own.Dir()}
			for _, err := range []error{next.replace(lines(ours)), next.close(), own.Close(), l.file.close()} {
				if err != nil {
					t.Fatal(err)
				}
			}
			again := NewLedger(Deps{Log: quiet(), Path: dir})
			if err := again.open(); err != nil {
				t.Fatal(err)
			}
			var units, count int64
			for _, sum := range again.state.totals {
				units, count = units+sum.units, count+sum.count
			}
			if units != 2*int64(one) || count != 2 {
				t.Errorf("%s units in %d charges, want 2 in 2", Amount(units), count)
			}
			for _, it := range []*item{known, late} {
				if e := again.state.entries[it.e.ID]; e == nil || e.State != settle || !e.queued {
					t.Errorf("%+v isn't told", e)
				}
			}
			if e := again.state.entries[open.e.ID]; e != nil && e.State != cancel {
				t.Errorf("%+v isn't cancelled", e)
			}
			if owed := again.state.account("s", "acme", "m").owed; owed != 2*int64(one) {
				t.Errorf("%s are owed", Amount(owed))
			}
			if err := errors.Join(again.writeOnce(), again.file.close()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestYieldFails: a journal that can't be written isn't handed over.
func TestYieldFails(t *testing.T) {
	r := newRig(t)
	p := r.policy(paidBy("event"))
	r.get(p, 200)
	names, err := filepath.Glob(filepath.Join(r.dir, "*"+suffix))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	number := 0
	if _, err := fmt.Sscanf(filepath.Base(names[0]), "%d", &number); err != nil {
		t.Fatal(err)
	}
	block := filepath.Join(r.dir, fmt.Sprintf("%010d%s.new", number+1, suffix))
	if err := os.Mkdir(block, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.l.Yield(); err == nil {
		t.Fatal("handed over what can't be written")
	}
	if err := os.RemoveAll(block); err != nil { // which it may have removed itself
		t.Fatal(err)
	}
	eventually(t, func() error { return r.l.failing() })
	r.get(p, 200)
	if err := r.l.Yield(); err != nil {
		t.Fatal(err)
	}
	r.end()
	next := r.successor()
	next.policy(paidBy("event"))
	next.balance("event", "2")
}

// TestGenerations: processes that hand over one to the other, while all of them work
// and some are killed, at any moment. At last both sides have charged the same: each
// answer that was given exactly once.
func TestGenerations(t *testing.T) {
	if dir := os.Getenv("CHARGE_DIR"); dir != "" {
		process(dir, os.Getenv("CHARGE_BILLING"), os.Getenv("CHARGE_MODE"))
		return
	}
	if testing.Short() {
		t.Skip("it starts many processes")
	}
	eachMode(t, func(t *testing.T, mode string) { t.Parallel(); generations(t, mode) })
}

// generation is one of the processes.
type generation struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	said chan string
	gone chan struct{}
}

// history is what they have said.
type history struct {
	mu      sync.Mutex
	begun   map[string]bool
	served  map[string]bool
	failed  map[string]bool
	problem []string
}

func (h *history) note(line string) (other bool) {
	kind, id, _ := strings.Cut(line, " ")
	h.mu.Lock()
	defer h.mu.Unlock()
	switch kind {
	case "begin":
		h.begun[id] = true
	case "served":
		h.served[id] = true
	case "failed":
		h.failed[id] = true
	case "problem":
		h.problem = append(h.problem, id)
	default:
		return true
	}
	return false
}

func (h *history) start(t *testing.T, dir, billing, mode string) *generation {
	t.Helper()
	g := &generation{cmd: exec.Command(os.Args[0], "-test.run=^TestGenerations$", "-test.v=false"), said: make(chan string, 16), gone: make(chan struct{})}
	g.cmd.Env = append(os.Environ(), "CHARGE_DIR="+dir, "CHARGE_BILLING="+billing, "CHARGE_MODE="+mode)
	out, err := g.cmd.StdoutPipe()
	if err == nil {
		g.in, err = g.cmd.StdinPipe()
	}
	g.cmd.Stderr = os.Stderr
	if err == nil {
		err = g.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.kill() })
	go func() { // ends with the process
		defer close(g.gone)
		for s := bufio.NewScanner(out); s.Scan(); {
			if h.note(s.Text()) {
				g.said <- s.Text()
			}
		}
		_ = g.cmd.Wait()
	}()
	return g
}

func (g *generation) kill() {
	_ = g.cmd.Process.Kill() // it may be gone
	<-g.gone
}

// do has it do something, and waits until it has.
func (g *generation) do(t *testing.T, what string) {
	t.Helper()
	if _, err := fmt.Fprintln(g.in, what); err != nil {
		t.Fatal(what, ": ", err)
	}
	select {
	case got := <-g.said:
		if got != what {
			t.Fatalf("%s: %s", what, got)
		}
	case <-g.gone:
		t.Fatalf("%s: the process is gone", what)
	case <-time.After(time.Minute):
		t.Fatalf("%s: nothing comes", what)
	}
}

func generations(t *testing.T, mode string) {
	b, err := chargetest.New("")
	if err != nil {
		t.Fatal(err)
	}
	b.Fault = func(*http.Request) chargetest.Fault {
		return chargetest.Fault{Lose: rand.N(100) < 3, Twice: rand.N(100) < 3, Delay: rand.N(3 * time.Millisecond)}
	}
	server := httptest.NewServer(b)
	defer server.Close()
	dir := t.TempDir()
	h := &history{begun: map[string]bool{}, served: map[string]bool{}, failed: map[string]bool{}}
	now := h.start(t, dir, server.URL, mode)
	now.do(t, "work")
	counts := map[string]int{}
	pause := func() { time.Sleep(rand.N(60 * time.Millisecond)) }
	var old []*generation
	for n := range 24 {
		next := h.start(t, dir, server.URL, mode)
		pause()
		what := []string{"hand over", "hand over", "killed before", "killed at once", "killed later", "successor fails", "successor is killed", "hand over"}[n%8]
		counts[what]++
		if what == "killed before" {
			if rand.N(2) == 0 {
				go func() { _, _ = fmt.Fprintln(now.in, "yield") }() // it may come that far, or half of it
				time.Sleep(rand.N(3 * time.Millisecond))
			}
			now.kill()
			next.do(t, "work")
			now = next
			continue
		}
		now.do(t, "yield")
		if what == "killed at once" {
			now.kill()
		}
		pause()
		if what == "successor fails" {
			next.kill()
			now.do(t, "resume")
			continue
		}
		next.do(t, "work")
		pause()
		switch what {
		case "successor is killed":
			next.kill()
			now.do(t, "resume")
			continue
		case "killed later":
			now.kill()
		case "hand over":
			if _, err := fmt.Fprintln(now.in, "end"); err != nil {
				t.Fatal(err)
			}
			old = append(old, now)
		}
		now = next
	}
	for _, g := range old {
		<-g.gone
	}
	now.do(t, "end")
	<-now.gone
	last := h.start(t, dir, server.URL, mode) // which tells what there may be left
	last.do(t, "open")
	last.do(t, "end")
	<-last.gone
	h.compare(t, b, dir, mode)
	t.Log(counts)
}

func (h *history) compare(t *testing.T, b *chargetest.Billing, dir, mode string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range append(h.problem, b.Wrong()...) {
		t.Error(p)
	}
	l := NewLedger(Deps{Log: quiet(), Path: dir})
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	s := l.Status()
	if s.Pending != 0 || s.Dead != 0 || s.Draining != 0 || s.Spool.Damaged != 0 {
		t.Errorf("at last: %+v", s)
	}
	totals, err := l.Totals("", "", "")
	if err != nil {
		t.Fatal(err)
	}
	var ours Amount
	for _, v := range totals.Totals {
		ours += v.Units
	}
	unsure := 0
	for id := range h.begun {
		if !h.served[id] && !h.failed[id] {
			unsure++
		}
	}
	theirs := b.Units("", "")
	t.Logf("%d served, %d failed, %d unsure; %s units here, %s there", len(h.served), len(h.failed), unsure, ours, theirs)
	if ours.String() != theirs {
		t.Errorf("%s units were charged here, and %s there", ours, theirs)
	}
	if n := int64(ours / one); n < int64(len(h.served)) || n > int64(len(h.served)+unsure) {
		t.Errorf("%d units were charged for %d answers, and %d that nobody knows of", n, len(h.served), unsure)
	}
	if n := b.Count("reserved"); n > 0 {
		t.Errorf("%d reservations have no outcome", n)
	}
	if mode != "lease" {
		charges := b.Requests()
		for id := range h.begun {
			if n := charges[id]; n > 1 || h.served[id] && n != 1 || h.failed[id] && n != 0 {
				t.Errorf("request %s (served %v, failed %v) was charged %d times", id, h.served[id], h.failed[id], n)
			}
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 2 {
		t.Errorf("files: %q", names)
	}
}

// process is a process that charges, and does what it is told.
func process(dir, billing, mode string) {
	var out sync.Mutex
	say := func(format string, list ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", list...)
	}
	l := NewLedger(Deps{Log: quiet(), Path: dir})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	var clients sync.WaitGroup
	var stop atomic.Bool
	opened := false
	for s := bufio.NewScanner(os.Stdin); s.Scan(); {
		var err error
		switch s.Text() {
		case "open", "work":
			p, failed := paid(l, billing, mode)
			if err = failed; err != nil {
				break
			}
			opened = true
			go func() { defer close(ran); l.Run(ctx) }()
			for n := range 12 {
				if s.Text() == "work" {
					clients.Go(func() {
						for i := 0; !stop.Load(); i++ {
							ask(p, fmt.Sprintf("%d-%d-%d", os.Getpid(), n, i), say)
						}
					})
				}
			}
		case "yield":
			err = l.Yield()
		case "resume":
			err = l.Resume()
		case "end":
			stop.Store(true)
			clients.Wait()
			cancel()
			if opened {
				<-ran
			}
		}
		if err != nil {
			say("problem %s: %v", s.Text(), err)
		}
		say("%s", s.Text())
		if s.Text() == "end" {
			os.Exit(0)
		}
	}
	os.Exit(1)
}

// paid is the policy of a process.
func paid(l *Ledger, billing, mode string) (*Policy, error) {
	plan := l.Plan()
	kind := Kind(Means{Ledger: l, Plan: plan})
	join := kind.Join
	kind.Join = nil
	t := new(testing.T)
	one := policytest.Policy(t, kind, "charge {\n service = \"billing\"\ntimeout = \"5s\"\n"+paidBy(mode)+"\n}")
	p, err := join("paid", []policy.Policy{one})
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	plan.Connect(func(string) Caller {
		return func(c *Call) (*Answer, error) {
			ctx, cancel := context.WithDeadline(context.Background(), c.Until)
			defer cancel()
			q, err := http.NewRequestWithContext(ctx, c.Method, billing+c.Path+"?"+c.Query, bytes.NewReader(c.Body))
			if err != nil {
				return nil, err
			}
			if c.Key != "" {
				q.Header.Set("Idempotency-Key", c.Key)
			}
			resp, err := client.Do(q)
			if err != nil {
				return nil, errors.New("no answer")
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			return &Answer{resp.StatusCode, b}, err
		}
	})
	plan.Commit()
	return p.(*Policy), nil
}

// ask sends one request.
func ask(p *Policy, id string, say func(string, ...any)) {
	x := request(new(testing.T), "GET https://api.example.com/search")
	x.RequestID = id
	say("begin %s", id)
	if _, err := p.Request(x); err != nil {
		say("failed %s", id)
		return
	}
	time.Sleep(rand.N(10 * time.Millisecond))
	good := rand.N(10) > 0
	if good {
		policytest.Answer(x, 200, "x")
	} else {
		policytest.Answer(x, 500, "x")
	}
	err := p.Response(x)
	if err == nil && good {
		say("served %s", id)
	}
	p.Finish(x)
	if err != nil || !good {
		say("failed %s", id)
	}
}
