package tls

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestAsker(t *testing.T) {
	var asked atomic.Int64
	slow := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Query().Get("site") != "x" {
			w.WriteHeader(http.StatusBadRequest)
		}
		switch r.URL.Query().Get("domain") {
		case "slow.example.com":
			<-slow
		case "created.example.com":
			w.WriteHeader(http.StatusCreated)
		}
	}))
	t.Cleanup(func() { close(slow); srv.Close() })
	now := time.Now()
	a := newAsker(srv.URL+"/?site=x", func() time.Time { return now })
	ask := func(name string, allowed bool, times int64) {
		t.Helper()
		before := asked.Load()
		if err := a.allow(t.Context(), name); (err == nil) != allowed {
			t.Errorf("%s: %v", name, err)
		}
		if n := asked.Load() - before; n != times {
			t.Errorf("%s: asked %d times, want %d", name, n, times)
		}
	}
	ask("yes.example.com", true, 1)
	ask("yes.example.com", true, 0)
	ask("created.example.com", false, 1) // only 200 allows
	ask("created.example.com", false, 0)
	if a.ready("created.example.com") == nil || a.ready("yes.example.com") != nil || a.ready("new.example.com") != nil {
		t.Error("ready doesn't say what is known")
	}
	now = now.Add(verdictLife)
	ask("yes.example.com", true, 1)
	for i := range asksPerSec {
		a.verdicts[fmt.Sprint(i)] = verdict{}
		_ = a.allow(t.Context(), fmt.Sprintf("n%d.example.com", i))
	}
	if err := a.allow(t.Context(), "one-more.example.com"); !errors.Is(err, errAskLimit) {
		t.Errorf("one more question in the same instant: %v", err)
	}
	now = now.Add(time.Second)
	ask("slow.example.com", false, 1) // after two seconds
	a.failed("bad.example.com")
	a.failed("bad.example.com")
	now = now.Add(90 * time.Second)
	if err := a.ready("bad.example.com"); err == nil || !strings.Contains(err.Error(), "next try") {
		t.Errorf("after two failures: %v, want two minutes of waiting", err)
	}
	now = now.Add(time.Minute)
	if err := a.ready("bad.example.com"); err != nil {
		t.Errorf("after the wait: %v", err)
	}
	for i := range ordersAnHour {
		if err := a.order(fmt.Sprintf("n%d.customer.co.uk", i)); err != nil {
			t.Fatal(err)
		}
	}
	if a.order("more.customer.co.uk") == nil || a.order("other.co.uk") != nil {
		t.Error("orders aren't limited by registered domain")
	}
	now = now.Add(time.Hour)
	if err := a.order("more.customer.co.uk"); err != nil {
		t.Errorf("an hour later: %v", err)
	}
}
