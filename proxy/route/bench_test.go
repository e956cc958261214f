package route

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// table is a list of rules, and requests that they take.
type table struct {
	name  string
	rules []Rule
	lines []string
}

func tables() []table {
	mix := table{name: "1000 hosts x 100 paths"}
	for h := range 1000 {
		host := fmt.Sprintf("api-%d.example.com", h)
		if h%10 == 0 {
			host = fmt.Sprintf("*.zone-%d.example.com", h)
		}
		for p := range 100 {
			path, at := fmt.Sprintf("/v1/exact-%d/list", p), ""
			switch {
			case p%5 == 3:
				path, at = fmt.Sprintf("/v1/things-%d/{id}/items", p), fmt.Sprintf("/v1/things-%d/%d/items", p, h)
			case p%5 == 4:
				path, at = fmt.Sprintf("/v1/prefix-%d/*", p), fmt.Sprintf("/v1/prefix-%d/a/b/c", p)
			default:
				at = path
			}
			mix.rules = append(mix.rules, Rule{Name: fmt.Sprintf("r-%d-%d", h, p), Hosts: []string{host}, Paths: []string{path}, Methods: []string{"GET"}})
			if host[0] == '*' {
				mix.lines = append(mix.lines, "GET www"+host[1:]+at)
			} else {
				mix.lines = append(mix.lines, "GET "+host+at)
			}
		}
	}
	hosts, prefixes, params := table{name: "100000 hosts"}, table{name: "100000 prefixes on a host"}, table{name: "100000 parameter paths on a host"}
	for i := range 100_000 {
		name := fmt.Sprintf("r-%d", i)
		hosts.rules = append(hosts.rules, Rule{Name: name, Hosts: []string{fmt.Sprintf("tenant-%d.example.com", i)}})
		hosts.lines = append(hosts.lines, fmt.Sprintf("GET tenant-%d.example.com/any/path", i))
		prefixes.rules = append(prefixes.rules, Rule{Name: name, Hosts: []string{"api.example.com"}, Paths: []string{fmt.Sprintf("/team-%d/service-%d/*", i%100, i)}})
		prefixes.lines = append(prefixes.lines, fmt.Sprintf("GET api.example.com/team-%d/service-%d/a/b", i%100, i))
		params.rules = append(params.rules, Rule{Name: name, Hosts: []string{"api.example.com"}, Paths: []string{fmt.Sprintf("/tenants/{tenant}/things-%d/{id}", i)}})
		params.lines = append(params.lines, fmt.Sprintf("GET api.example.com/tenants/acme/things-%d/7", i))
	}
	return []table{mix, hosts, prefixes, params}
}

// BenchmarkMatch matches requests in random order, so that the table isn't in
// the CPU's cache, and tells what the table weighs.
func BenchmarkMatch(b *testing.B) {
	for _, tt := range tables() {
		b.Run(tt.name, func(b *testing.B) {
			before := heap()
			m, err := Compile(tt.rules)
			if err != nil {
				b.Fatal(err)
			}
			weight := heap() - before
			r := rand.New(rand.NewPCG(1, 2))
			targets := make([]exchange.Target, 1<<14)
			for i := range targets {
				x := request(b, tt.lines[r.IntN(len(tt.lines))])
				if got := m.Match(x); got.Rule < 0 {
					b.Fatalf("%v: %v", x.Target, got.Miss)
				}
				// As close together as in a connection's buffer.
				targets[i] = exchange.Target{Host: strings.Clone(x.Target.Host), Path: strings.Clone(x.Target.Path)}
			}
			x := request(b, tt.lines[0])
			m.Match(x) // makes room for parameters
			b.ReportAllocs()
			i, start := 0, cpu(b)
			for b.Loop() {
				x.Target = targets[i&(len(targets)-1)]
				m.Match(x)
				i++
			}
			b.ReportMetric(float64(cpu(b)-start)/float64(i), "cpu-ns/op")
			b.ReportMetric(float64(weight)/float64(len(tt.rules)), "B/route")
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, tt := range tables() {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Compile(tt.rules); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// cpu is the CPU time that the process has used, in nanoseconds: what a shared
// machine can't falsify.
func cpu(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

func TestMatchAllocations(t *testing.T) {
	m, err := Compile([]Rule{
		{Name: "a", Hosts: []string{"*.a.test"}, Paths: []string{"/x/{id}/*"}, Methods: []string{"POST"}, Headers: map[string]string{"X-A": "*b*"}},
		{Name: "b", Hosts: []string{"*.a.test"}, Paths: []string{"/x/*"}, Methods: []string{"GET"}, Query: map[string]string{"q": "*b*"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	x := request(t, "POST y.z.a.test/x/7/z?r=%20&q=a%62c", "X-A: abc", "Accept: x")
	target := x.Target
	for _, tt := range []struct {
		method string
		want   Result
	}{
		{"POST", Result{Rule: 0}},
		{"GET", Result{Rule: 1}},
		{"DELETE", Result{Rule: -1, Miss: MethodNotAllowed, Allow: "GET, HEAD, POST"}},
	} {
		head := x.Request
		n := testing.AllocsPerRun(100, func() {
			x.Request.Reset(nil)
			x.Reset(exchange.HTTP11, x.Conn, nil)
			x.Request, x.Method, x.Target = head, tt.method, target
			if got := m.Match(x); got != tt.want {
				t.Fatalf("Match = %+v, want %+v", got, tt.want)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", tt.method, n)
		}
	}
}
