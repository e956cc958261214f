package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
)

// biller is a billing service that dies and comes back, and remembers on a disk.
type biller struct {
	t       *testing.T
	path    string
	address string
	fault   func(*http.Request) chargetest.Fault
	refuse  func(*chargetest.Message) string

	mu   sync.Mutex
	b    *chargetest.Billing
	http *http.Server
	bad  []string
}

func newBiller(t *testing.T) *biller {
	t.Helper()
	s := &biller{t: t, path: filepath.Join(t.TempDir(), "billing.log"), address: fmt.Sprintf("127.0.0.1:%d", ports(t, 1)[0])}
	t.Cleanup(func() {
		s.die()
		for _, w := range s.bad {
			t.Error("the billing service saw: ", w)
		}
	})
	return s
}

// live starts it, with what it remembers.
func (s *biller) live() *biller {
	s.t.Helper()
	b, err := chargetest.New(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	b.Fault, b.Refuse = s.fault, s.refuse
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b, s.http = b, &http.Server{Handler: b, ReadHeaderTimeout: time.Minute, ErrorLog: nil}
	go func(h *http.Server) { _ = h.Serve(l) }(s.http) // ends with die
	return s
}

// die closes all connections at once.
func (s *biller) die() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return
	}
	_ = s.http.Close()
	s.bad = append(s.bad, s.b.Wrong()...)
	_ = s.b.Close()
	s.http = nil
}

func (s *biller) now() *chargetest.Billing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b
}

func (s *biller) block() string {
	return fmt.Sprintf(`
service "billing" {
  instances = [%q]
  outlier { errors = 0 }
}
consumer "acme" {
  api_key { sha256 = %q }
}
consumer "umbrella" {
  api_key { sha256 = %q }
}
`, s.address, keyHash(acmeKey), keyHash(umbrellaKey))
}

// chargeStatus is a part of GET /api/charges/status.
type chargeStatus struct {
	Pending, Dead int
	Spool         struct{ Failing bool }
	Services      []struct {
		Service string
		Down    bool
		Pending int
	}
}

func (g *gateway) charges(t *testing.T, path string, into any) {
	t.Helper()
	text, err := g.get("/api/charges" + path)
	if err == nil {
		err = json.Unmarshal([]byte(text), into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// told waits until the billing services know all there is.
func (g *gateway) told(t *testing.T) {
	t.Helper()
	eventually(t, "charges are told", func() error {
		var s chargeStatus
		g.charges(t, "/status", &s)
		if s.Pending > 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// units is what our side says was charged.
func (g *gateway) units(t *testing.T) string {
	t.Helper()
	var all struct{ Totals []struct{ Units json.Number } }
	g.charges(t, "/totals", &all)
	sum := 0.0
	for _, v := range all.Totals {
		f, err := v.Units.Float64()
		if err != nil {
			t.Fatal(err)
		}
		sum += f
	}
	return fmt.Sprintf("%g", sum)
}

// TestChargeChaos: the billing service loses answers, gets requests twice, is slow,
// dies and comes back, and the gateway is killed again and again, while a thousand
// answers are served in each mode. At last both sides have charged the same: each
// answer that a client got as a whole exactly once, what failed never, and what was on
// its way when the gateway was killed at most once.
func TestChargeChaos(t *testing.T) {
	for _, mode := range []string{"event", "reserve", "lease"} {
		t.Run(mode, func(t *testing.T) { chargeChaos(t, mode) })
	}
}

// chaos is what clients saw.
type chaos struct {
	served, failed, unsure atomic.Int64

	mu       sync.Mutex
	complete map[string]bool // by request id
	errors   map[string]bool // answered with what costs nothing
}

func chargeChaos(t *testing.T, mode string) {
	const want = 1000
	bill := newBiller(t)
	bill.fault = func(*http.Request) chargetest.Fault {
		f := chargetest.Fault{Lose: rand.N(100) < 5, Twice: rand.N(100) < 5}
		if rand.N(100) < 10 {
			f.Delay = rand.N(30 * time.Millisecond)
		}
		return f
	}
	bill.live()
	origin := twin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Id", r.Header.Get("X-Request-Id"))
		time.Sleep(rand.N(5 * time.Millisecond)) // as services do
		if rand.N(10) == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = w.Write(make([]byte, 2000))
	}))
	g := newGateway(t, origin+bill.block()+fmt.Sprintf(`
route "paid" {
  hosts   = ["paid.test"]
  service = "one"
  auth "api_key" {}
  charge {
    meter   = "m"
    service = "billing"
    mode    = %q
    lease   = "50"
    timeout = "2s"
  }
}
`, mode)).start(t)
	seen := &chaos{complete: map[string]bool{}, errors: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for i := range 12 {
		clients.Go(func() { seen.client(ctx, g, []string{acmeKey, umbrellaKey}[i%2]) })
	}
	kills, deaths := 0, 0
	for end := time.Now().Add(3 * time.Minute); (seen.served.Load() < want || kills < 8 || deaths < 3) && time.Now().Before(end); {
		before := seen.served.Load()
		for wait := time.Now().Add(3 * time.Second); seen.served.Load() < before+20 && time.Now().Before(wait); {
			time.Sleep(time.Millisecond) // some progress between two blows
		}
		time.Sleep(rand.N(150 * time.Millisecond))
		if rand.N(3) == 0 {
			deaths++
			bill.die()
			time.Sleep(rand.N(200 * time.Millisecond))
			bill.live()
			continue
		}
		kills++
		g.stop(syscall.SIGKILL)
		g.start(t)
	}
	stop()
	clients.Wait()
	g.told(t)
	if mode == "lease" {
		g.stop(syscall.SIGTERM) // leases go back
		g.start(t)
		g.told(t)
	}
	served, failed, unsure := seen.served.Load(), seen.failed.Load(), seen.unsure.Load()
	ours, theirs := g.units(t), bill.now().Units("", "")
	t.Logf("%d served, %d failed, %d unsure; %d times killed, %d times without the billing service; %s units here, %s there", served, failed, unsure, kills, deaths, ours, theirs)
	if served < want || kills < 8 || deaths < 3 {
		t.Errorf("too little happened")
	}
	if ours != theirs {
		t.Errorf("%s units were charged here, and %s there", ours, theirs)
	}
	var units int64
	if _, err := fmt.Sscan(theirs, &units); err != nil || units < served || units > served+unsure {
		t.Errorf("%s units were charged for %d answers, and %d that nobody knows of", theirs, served, unsure)
	}
	if mode != "lease" {
		charges := bill.now().Requests()
		for id := range seen.complete {
			if charges[id] != 1 {
				t.Errorf("request %s was answered, and charged %d times", id, charges[id])
			}
		}
		for id := range seen.errors {
			if charges[id] != 0 {
				t.Errorf("request %s was answered with an error, and charged %d times", id, charges[id])
			}
		}
		for id, n := range charges {
			if n != 1 {
				t.Errorf("request %s was charged %d times", id, n)
			}
		}
	}
	if n := bill.now().Count("reserved"); n > 0 {
		t.Errorf("%d reservations have no outcome", n)
	}
	if out, code := run(t, "charges", "reconcile", "-config", filepath.Dir(g.config())); code != 0 {
		t.Errorf("reconcile: %s", out)
	}
	if names, _ := os.ReadDir(filepath.Join(g.dir, "state", "charges")); len(names) != 2 {
		t.Errorf("%d files in state_dir/charges", len(names))
	}
}

// client asks again and again.
func (s *chaos) client(ctx context.Context, g *gateway, key string) {
	c := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	defer c.CloseIdleConnections()
	for ctx.Err() == nil {
		r, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", g.http), nil)
		if err != nil {
			panic(err) // it is right
		}
		r.Host = "paid.test"
		r.Header.Set("X-Api-Key", key)
		resp, err := c.Do(r)
		if err != nil {
			s.unsure.Add(1) // it may have been sent, and charged
			time.Sleep(20 * time.Millisecond)
			continue
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		id := resp.Header.Get("X-Id")
		switch {
		case err != nil:
			s.unsure.Add(1)
		case resp.StatusCode == 200 && n == 2000:
			s.served.Add(1)
			s.note(s.complete, id)
		default:
			s.failed.Add(1)
			s.note(s.errors, id)
		}
	}
}

func (s *chaos) note(m map[string]bool, id string) {
	if id == "" {
		return
	}
	s.mu.Lock()
	m[id] = true
	s.mu.Unlock()
}
