package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

func with(cookie string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.AddCookie(&http.Cookie{Name: sessionCookie, Value: cookie})
	return r
}

func TestSessions(t *testing.T) {
	var s sessions
	now := time.Unix(1_000_000, 0)
	if !s.ends(httptest.NewRequest("GET", "/", nil), now).IsZero() || !s.ends(with("x"), now).IsZero() {
		t.Error("somebody has a session without one")
	}
	first := s.open(now)
	if got := s.ends(with(first), now.Add(sessionLasts-1)); !got.Equal(now.Add(sessionLasts)) {
		t.Errorf("it ends %v", got)
	}
	if got := s.ends(with(first), now.Add(sessionLasts)); !got.IsZero() {
		t.Error("it doesn't end")
	}
	if !s.ends(with(first[:63]+"0"), now).IsZero() && first[63] != '0' {
		t.Error("another value is as good")
	}
	for i := range maxSessions {
		s.open(now.Add(time.Duration(i+1) * time.Second))
	}
	if len(s.list) != maxSessions || !s.ends(with(first), now).IsZero() {
		t.Errorf("%d sessions, and the oldest is one of them", len(s.list))
	}
	last := s.open(now.Add(2 * sessionLasts))
	if len(s.list) != 1 {
		t.Errorf("%d sessions are kept that are over", len(s.list)-1)
	}
	s.close(with(last))
	if !s.ends(with(last), now.Add(2*sessionLasts)).IsZero() {
		t.Error("it goes on after the logout")
	}
}

// TestGuesses: an address has ten wrong tokens, then one each five seconds, and many
// addresses don't grow the memory.
func TestGuesses(t *testing.T) {
	var s sessions
	now, from, other := time.Unix(1_000_000, 0), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for range guesses {
		if d := s.wait(from, now); d > 0 {
			t.Fatalf("it waits for %v too soon", d)
		}
		s.wrong(from, now)
	}
	if d := s.wait(from, now); d != guessBack {
		t.Errorf("it waits for %v, want %v", d, guessBack)
	}
	if d := s.wait(other, now); d > 0 {
		t.Errorf("another waits for %v", d)
	}
	if d := s.wait(from, now.Add(guessBack)); d > 0 {
		t.Errorf("then for %v", d)
	}
	for i := range 3 * maxAddresses {
		s.wrong(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now)
	}
	if len(s.guessed) > maxAddresses+1 {
		t.Errorf("%d addresses are counted", len(s.guessed))
	}
	if d := s.wait(netip.MustParseAddr("198.51.100.1"), now); d <= 0 {
		t.Error("those that aren't counted apart guess for ever")
	}
	if d := s.wait(netip.MustParseAddr("198.51.100.1"), now.Add(24*time.Hour)); d > 0 {
		t.Error("a day later they still wait")
	}
}

func TestAddressOf(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1": "192.0.2.1", "[::ffff:192.0.2.1]:1": "192.0.2.1", "[2001:db8::1:2:3:4]:1": "2001:db8::", "[fe80::1%eth0]:1": "fe80::", "@": "invalid IP",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = remote
		if got := addressOf(r).String(); got != want {
			t.Errorf("addressOf(%q) = %s, want %s", remote, got, want)
		}
	}
}

// TestGuard: who may read and change, with a token and without.
func TestGuard(t *testing.T) {
	log, _ := test.NewNullLogger()
	inner := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	for _, tt := range []struct {
		token          secret.String
		method, target string
		header         map[string]string
		want           int
	}{
		{"", "GET", "http://127.0.0.1/api/status", nil, 204},
		{"", "GET", "http://[::1]:9901/", nil, 204},
		{"", "GET", "http://localhost:9901/", nil, 204},
		{"", "GET", "http://127.8.8.8/", nil, 204},
		{"", "GET", "http://rebound.test/", nil, 403},
		{"", "GET", "http://rebound.test/api/status", nil, 403},
		{"", "GET", "http://rebound.test/assets/x.js", nil, 403},
		{"", "GET", "http://rebound.test/healthz", nil, 204},
		{"", "POST", "http://127.0.0.1/x", map[string]string{"Origin": "http://evil.test"}, 403},
		{"", "GET", "http://127.0.0.1/api/tail", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"", "GET", "http://127.0.0.1/api/charges/reconcile", map[string]string{"Sec-Fetch-Site": "same-site"}, 403},
		{"", "GET", "http://127.0.0.1/api/tail", map[string]string{"Sec-Fetch-Site": "same-origin"}, 204},
		{"", "GET", "http://127.0.0.1/api/status", map[string]string{"Sec-Fetch-Site": "none"}, 204},
		{"", "GET", "http://127.0.0.1/", map[string]string{"Sec-Fetch-Site": "cross-site"}, 204},
		{"t", "GET", "http://gateway.test/", nil, 204},
		{"t", "GET", "http://gateway.test/assets/x.js", nil, 204},
		{"t", "GET", "http://gateway.test/api/session", nil, 204},
		{"t", "GET", "http://gateway.test/api/status", nil, 401},
		{"t", "GET", "http://gateway.test/metrics", nil, 401},
		{"t", "GET", "http://gateway.test/api/status", map[string]string{"Authorization": "Bearer t"}, 204},
		{"t", "GET", "http://gateway.test/api/status", map[string]string{"Authorization": "Bearer tt"}, 401},
		{"t", "GET", "http://gateway.test/api/status", map[string]string{"Authorization": "Basic t"}, 401},
		{"t", "GET", "http://gateway.test/api/status", map[string]string{"Cookie": "sidegate_admin=t"}, 401},
		{"t", "DELETE", "http://gateway.test/x", map[string]string{"Authorization": "Bearer t", "Sec-Fetch-Site": "cross-site"}, 403},
	} {
		t.Run(fmt.Sprint(tt.token != "", " ", tt.method, " ", tt.target, tt.header), func(t *testing.T) {
			s := New(Deps{Log: log})
			s.names = map[string]bool{"localhost": true}
			s.setToken(tt.token)
			r := httptest.NewRequest(tt.method, tt.target, nil)
			for k, v := range tt.header {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			s.guard(inner).ServeHTTP(w, r)
			if w.Code != tt.want {
				t.Errorf("%d %s, want %d", w.Code, w.Body, tt.want)
			}
			if csp := w.Header().Get("Content-Security-Policy"); csp != policyOf || w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%v", w.Header())
			}
		})
	}
}

func TestPart(t *testing.T) {
	list := []int{3, 1, 2}
	by := orders[int]{"n": func(a, b *int) int { return *a - *b }}
	for _, tt := range []struct {
		query, want string
		total       string
	}{
		{"", "[3 1 2]", "3"},
		{"sort=n", "[1 2 3]", "3"},
		{"sort=n&order=desc&limit=2", "[3 2]", "3"},
		{"sort=n&offset=2", "[3]", "3"},
		{"offset=7", "[]", "3"},
		{"sort=m", `sort: "m" isn't one of n`, ""},
		{"limit=0", `limit: "0" isn't a number from 1 to 1000`, ""},
		{"offset=-1", `offset: "-1" isn't a number from 0 on`, ""},
	} {
		w := httptest.NewRecorder()
		l, err := listingOf(httptest.NewRequest("GET", "/?"+tt.query, nil), 0)
		var got []int
		if err == nil {
			got, err = part(w, &l, append([]int{}, list...), by)
		}
		text := fmt.Sprint(got)
		if err != nil {
			text = err.Error()
		}
		if text != tt.want || w.Header().Get("X-Total-Count") != tt.total {
			t.Errorf("%s: %s of %q, want %s of %q", tt.query, text, w.Header().Get("X-Total-Count"), tt.want, tt.total)
		}
	}
}

func TestTailFilter(t *testing.T) {
	for query, bad := range map[string]bool{
		"": false, "status=5xx": false, "status=0xx": false, "status=6xx": true, "status=500": true, "status=xx": true,
		"client=192.0.2.1": false, "client=2001:db8::/32": false, "client=me": true,
	} {
		if _, err := tailFilter(httptest.NewRequest("GET", "/?"+query, nil)); (err != nil) != bad {
			t.Errorf("%q: %v", query, err)
		}
	}
}
