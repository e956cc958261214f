package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sidegate-proxy/sidegate/discovery"
)

type claimReport struct {
	claims   []discovery.Claim
	problems []discovery.Problem
}

type claimRecorder struct {
	mu  sync.Mutex // guards all
	all []claimReport
}

func watchClaims(t *testing.T, c *Client, prefixes ...string) *claimRecorder {
	ctx, cancel := context.WithCancel(context.Background())
	w := new(claimRecorder)
	done := make(chan error, 1)
	go func() {
		done <- c.WatchClaims(ctx, prefixes, func(cl []discovery.Claim, p []discovery.Problem) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.all = append(w.all, claimReport{cl, p})
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("WatchClaims = %v, want nil", err)
		}
	})
	return w
}

func (w *claimRecorder) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.all)
}

// brief is a report in words: service/instance route hosts paths…, and problems
// by instance.
func (w *claimRecorder) brief() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) == 0 {
		return []string{"nothing yet"}
	}
	last := w.all[len(w.all)-1]
	var list []string
	for _, c := range last.claims {
		list = append(list, fmt.Sprintf("%s %s %q %v %v", c.Service, strings.TrimPrefix(c.Instance, "node-1/"), c.Route, c.Hosts, c.Paths))
	}
	for _, p := range last.problems {
		list = append(list, fmt.Sprintf("! %s %s", p.Service, strings.TrimPrefix(p.Instance, "node-1/")))
	}
	return list
}

func (w *claimRecorder) await(t *testing.T, want ...string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("last report: %q", w.brief())
		}
	}()
	eventually(t, fmt.Sprintf("claims %q", want), func() bool { return slices.Equal(w.brief(), want) })
}

func TestAgentClaims(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	register(t, a, "", `{"ID":"p1","Name":"plain","Port":1,"Tags":["v1"],"Meta":{"tier":"gold"}}`)
	register(t, a, "", `{"ID":"t1","Name":"bytag","Port":1,"Tags":["v1","sidegate.host=a.example.com,b.example.com","sidegate.path=/x/*"]}`)
	w := watchClaims(t, c)
	byTag := `bytag t1 "" [a.example.com b.example.com] [/x/*]`
	w.await(t, byTag)

	register(t, a, "", `{"ID":"m1","Name":"bymeta","Port":1,"Meta":{"sidegate-host":"m.example.com","sidegate-path":"/m"}}`)
	byMeta := `bymeta m1 "" [m.example.com] [/m]`
	w.await(t, byMeta, byTag)
	register(t, a, "", `{"ID":"n1","Name":"named","Port":1,"Meta":{"sidegate":"yes","sidegate-api-host":"n.example.com"}}`)
	named := `named n1 "api" [n.example.com] []`
	w.await(t, byMeta, byTag, named)
	register(t, a, "", `{"ID":"f1","Name":"fabio","Port":1,"Tags":["urlprefix-f.example.com/foo strip=/foo","urlprefix-:9000 proto=tcp"]}`)
	fabio := `fabio f1 "f.example.com/foo" [f.example.com] [/foo /foo/*]`
	w.await(t, byMeta, byTag, fabio, named, "! fabio f1")

	// A second instance with a bad tag harms itself only.
	register(t, a, "", `{"ID":"t2","Name":"bytag","Port":2,"Tags":["sidegate.host=a.example.com","sidegate.wieght=5"]}`)
	w.await(t, byMeta, byTag, fabio, named, "! bytag t2", "! fabio f1")
	// A critical instance keeps its claims, a deregistered one doesn't.
	a.put(t, "PUT", "agent/service/deregister/t2", "", "")
	a.put(t, "PUT", "agent/service/maintenance/t1?enable=true", "", "")
	w.await(t, byMeta, byTag, fabio, named, "! fabio f1")
	a.put(t, "PUT", "agent/service/deregister/t1", "", "")
	a.put(t, "PUT", "agent/service/deregister/f1", "", "")
	w.await(t, byMeta, named)
	// Meta alone can be taken back, too.
	register(t, a, "", `{"ID":"m1","Name":"bymeta","Port":1}`)
	register(t, a, "", `{"ID":"n1","Name":"named","Port":1,"Meta":{"sidegate":"yes","sidegate-api-host":"o.example.com"}}`)
	w.await(t, `named n1 "api" [o.example.com] []`)

	// Only who claims is watched.
	for _, s := range c.Status() {
		if strings.Contains(s.What, "plain") || strings.Contains(s.What, "bytag") {
			t.Errorf("%s is watched", s.What)
		}
	}
}

func TestAgentClaimsSurvive(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	register(t, a, "", `{"ID":"t1","Name":"bytag","Port":1,"Tags":["sidegate.host=a.example.com"]}`)
	w := watchClaims(t, c)
	w.await(t, `bytag t1 "" [a.example.com] []`)
	n := w.count()
	a.kill(t)
	eventually(t, "the client notices", func() bool { ok, _ := c.Connected(); return !ok })
	if w.count() != n {
		t.Errorf("reported %q while the agent is away", w.brief())
	}
}

func TestClaimsOfOnePrefix(t *testing.T) {
	a := newAgent(t, false, "")
	c := newClient(t, a.address(), "")
	register(t, a, "", `{"ID":"t1","Name":"mixed","Port":1,"Tags":["sidegate.host=a.example.com","urlprefix-b.example.com/"]}`)
	w := watchClaims(t, c, "urlprefix-")
	w.await(t, `mixed t1 "b.example.com/" [b.example.com] [/*]`)
}
