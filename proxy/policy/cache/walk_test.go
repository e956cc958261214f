package cache

import (
	"fmt"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestAttach: what is attached to an answer is found as long as its body is stored,
// also with new fields, and goes with it.
func TestAttach(t *testing.T) {
	const url = "https://api.example.com/a"
	for _, how := range []string{"replaced", "forgotten", "purged", "dropped"} {
		p := newPolicy(t, nil, "")
		s := p.store
		answer(t, p, "GET "+url, "body", "Cache-Control: max-age=100")
		found := func() *entry {
			x := policytest.Exchange(t, "GET "+url)
			x.Start = time.Now()
			l, _ := p.look(x)
			return l.find()
		}
		e := found()
		if !s.attach(e, "br", []byte("small")) || !s.attach(e, "br", []byte("smaller")) || s.attached(e, "gzip") != nil || string(s.attached(e, "br")) != "smaller" {
			t.Fatalf("attached: %q", s.attached(e, "br"))
		}
		if _, items := s.Size(); items != 1 {
			t.Errorf("%d answers", items)
		}
		n := 0
		s.allOf(url, func(m *meta) action {
			if n++; m.attached != "" && m.attached != "br" || m.uri != url || m.attached == "" && m.size != 4 {
				t.Errorf("%+v", m)
			}
			return softenIt
		})
		if n != 2 {
			t.Errorf("%d are looked at", n)
		}
		switch how {
		case "replaced":
			answer(t, p, "GET "+url, "other", "Cache-Control: max-age=100")
		case "forgotten":
			s.forget(url)
		case "purged":
			if n, _ := s.Purge(Purge{URLs: []string{url}}); n != 1 {
				t.Errorf("%d are purged", n)
			}
		case "dropped":
			s.drop(e)
		}
		if s.attached(e, "br") != nil || s.attach(e, "br", nil) {
			t.Errorf("%s: it is still attached", how)
		}
		items := 0
		for i := range s.shards {
			items += s.shards[i].count
		}
		if want := map[bool]int{true: 1, false: 0}[how == "replaced"]; items != want {
			t.Errorf("%s: %d items are left", how, items)
		}
	}
}

// TestAdmission: those that are asked for again and again stay, whatever passes by.
func TestAdmission(t *testing.T) {
	s := NewStore(StoreConfig{Memory: 2 << 20})
	p := newPolicy(t, s, "")
	body := string(make([]byte, 1000))
	hits := 0
	for i := range 20_000 {
		answer(t, p, fmt.Sprintf("GET https://api.example.com/once/%d", i), body, "Cache-Control: max-age=100")
		if _, hit := answer(t, p, fmt.Sprintf("GET https://api.example.com/often/%d", i%500), body, "Cache-Control: max-age=100"); hit {
			hits++
		}
	}
	if hits < 18_000 {
		t.Errorf("%d hits of 20000", hits)
	}
}
