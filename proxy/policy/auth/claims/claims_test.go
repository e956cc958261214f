package claims

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

const issuer = "https://id.test"

func directory(t testing.TB) *consumer.Directory {
	t.Helper()
	d, err := consumer.Compile([]*consumer.PlanConfig{{Name: "gold"}}, []*consumer.Config{
		{Name: "acme", Plan: "gold", Labels: map[string]string{"team": "search"}, JWT: []*consumer.JWTConfig{{Subject: "acme-client", Issuer: issuer}}},
		{Name: "umbrella"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConsumer(t *testing.T) {
	object := func(text string) map[string]any {
		t.Helper()
		m, err := Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	listed := `{"sub":"acme-client","department":"sales","groups":["a","b"],"realm":{"user":"acme-client","n":7},"https://x.test/team":"web","admin":true}`
	tests := []struct {
		name   string
		cfg    Config
		claims string
		want   string // the consumer's name; "": none
		plan   string
		labels map[string]string
	}{
		{"sub", Config{}, listed, "acme", "gold", map[string]string{"team": "search"}},
		{"nobody", Config{}, `{"sub":"other"}`, "", "", nil},
		{"a number", Config{}, `{"sub":7}`, "", "", nil},
		{"a list", Config{}, `{"sub":["acme-client"]}`, "", "", nil},
		{"another claim", Config{Subject: "client_id"}, `{"sub":"other","client_id":"acme-client"}`, "acme", "gold", map[string]string{"team": "search"}},
		{"another claim, only sub", Config{Subject: "client_id"}, listed, "", "", nil},
		{"a nested claim", Config{Subject: "realm.user"}, listed, "acme", "gold", map[string]string{"team": "search"}},
		{"a nested claim that isn't", Config{Subject: "realm.none"}, listed, "", "", nil},
		{
			"labels", Config{Labels: map[string]string{"department": "department", "groups": "groups", "n": "realm.n", "web": "https://x.test/team", "admin": "admin", "none": "missing"}}, listed,
			"acme", "gold", map[string]string{"team": "search", "department": "sales", "groups": `["a","b"]`, "n": "7", "web": "web", "admin": "true"},
		},
		{"a label of the configuration", Config{Labels: map[string]string{"team": "department"}}, listed, "acme", "gold", map[string]string{"team": "search"}},
		{"labels of nobody", Config{Labels: map[string]string{"team": "department"}}, `{"sub":"other","department":"x"}`, "", "", nil},
		{"unlisted", Config{Unlisted: true}, `{"sub":"other"}`, "other", "", nil},
		{"unlisted, with labels", Config{Unlisted: true, Labels: map[string]string{"team": "department"}}, `{"sub":"other","department":"x"}`, "other", "", map[string]string{"team": "x"}},
		{"listed, where others needn't be", Config{Unlisted: true}, listed, "acme", "gold", map[string]string{"team": "search"}},
		{"the name of a consumer", Config{Unlisted: true}, `{"sub":"umbrella"}`, "", "", nil},
		{"the name of the very consumer", Config{Unlisted: true}, `{"sub":"acme"}`, "", "", nil},
		{"no name", Config{Unlisted: true}, `{"sub":""}`, "", "", nil},
		{"a line break", Config{Unlisted: true}, `{"sub":"a\nb"}`, "", "", nil},
		{"too long", Config{Unlisted: true}, `{"sub":"` + strings.Repeat("x", maxName+1) + `"}`, "", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := tt.cfg.Compile(issuer, directory(t))
			if err != nil {
				t.Fatal(err)
			}
			c, memo := exchange.NewClaims(object(tt.claims)), &Memo{}
			got := m.Consumer(c, memo)
			if again := m.Consumer(c, memo); again != got {
				t.Errorf("made twice: %v and %v", got, again)
			}
			if got == nil {
				if tt.want != "" {
					t.Errorf("nobody, want %q", tt.want)
				}
				return
			}
			if got.Name != tt.want || got.PlanName() != tt.plan {
				t.Errorf("%q with plan %q, want %q, %q", got.Name, got.PlanName(), tt.want, tt.plan)
			}
			if d := cmp.Diff(tt.labels, got.Labels); d != "" {
				t.Errorf("labels: %s", d)
			}
		})
	}
}

// TestAnotherIssuer: a subject is somebody only with who said so, and what one
// configuration made isn't another's.
func TestAnotherIssuer(t *testing.T) {
	c, memo := exchange.NewClaims(map[string]any{"sub": "acme-client", "a": "b"}), &Memo{}
	first, err := Config{Labels: map[string]string{"a": "a"}}.Compile(issuer, directory(t))
	if err != nil {
		t.Fatal(err)
	}
	other, err := Config{Labels: map[string]string{"a": "a"}}.Compile("https://other.test", directory(t))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := first.Consumer(c, memo), other.Consumer(c, memo); a == nil || a.Name != "acme" || b != nil {
		t.Errorf("consumers %+v and %+v", a, b)
	}
	if _, err := (Config{Labels: map[string]string{"": "a", "b": ""}}).Compile(issuer, nil); err == nil || err.Error() != "labels: \"\" = \"a\" names nothing\nlabels: \"b\" = \"\" names nothing" {
		t.Errorf("labels without a name: %v", err)
	}
}

// TestMemo: what was made of one listed consumer isn't another's, nor nobody's.
func TestMemo(t *testing.T) {
	c, memo := exchange.NewClaims(map[string]any{"sub": "acme-client", "a": "b"}), &Memo{}
	m, err := Config{Unlisted: true, Labels: map[string]string{"a": "a"}}.Compile(issuer, directory(t))
	if err != nil {
		t.Fatal(err)
	}
	first := m.Consumer(c, memo)
	m.consumers = directory(t) // as consumers that stand in no file change
	second := m.Consumer(c, memo)
	if first == second || second.Name != "acme" || m.Consumer(c, memo) != second {
		t.Errorf("after a change: %+v, before %+v", second, first)
	}
	m.consumers = nil
	third := m.Consumer(c, memo)
	if third == nil || third.Name != "acme-client" || third.Plan != nil || third.Labels["team"] != "" || third.Labels["a"] != "b" {
		t.Errorf("of nobody that is listed: %+v", third)
	}
	if m.consumers, err = consumer.Compile(nil, []*consumer.Config{{Name: "acme-client"}}); err != nil {
		t.Fatal(err)
	}
	if got := m.Consumer(c, memo); got != nil {
		t.Errorf("of the name of another one: %+v", got)
	}
}

func TestNoAllocations(t *testing.T) {
	m, err := Config{Unlisted: true, Labels: map[string]string{"a": "a"}}.Compile(issuer, directory(t))
	if err != nil {
		t.Fatal(err)
	}
	c, memo := exchange.NewClaims(map[string]any{"sub": "x", "a": "b"}), &Memo{}
	m.Consumer(c, memo)
	if n := testing.AllocsPerRun(100, func() { m.Consumer(c, memo) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
