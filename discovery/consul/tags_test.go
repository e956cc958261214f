package consul

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/discovery"
)

var bothPrefixes = []string{ownPrefix, fabioPrefix}

func TestParseClaims(t *testing.T) {
	claim := func(c discovery.Claim) discovery.Claim {
		c.Service, c.Instance = "orders", "n/1"
		return c
	}
	tests := []struct {
		name     string
		tags     []string
		meta     map[string]string
		want     []discovery.Claim
		problems []string // a part of each
	}{
		{name: "nothing of ours", tags: []string{"v1", "sidegate", "traefik.enable=true", "urlprefix"}, meta: map[string]string{"sidegated": "x", "sidegate": "on"}},
		{name: "all keys", tags: []string{"sidegate.host=API.example.com, *.eu.example.com", "sidegate.path=/orders/*,/healthz,/o/{id}/items",
			"sidegate.use=public-api,slow", "sidegate.strip=/orders", "sidegate.weight=5", "sidegate.protocol=h2c", "sidegate.route=v2"},
			want: []discovery.Claim{{Route: "v2", Hosts: []string{"api.example.com", "*.eu.example.com"}, Paths: []string{"/orders/*", "/healthz", "/o/{id}/items"},
				Use: []string{"public-api", "slow"}, Strip: "/orders", Weight: 5, Protocol: "h2c"}}},
		{name: "lists over several tags", tags: []string{"sidegate.host=b.x", "sidegate.host=a.x", "sidegate.host=b.x"},
			want: []discovery.Claim{{Hosts: []string{"b.x", "a.x"}}}},
		{name: "several routes", tags: []string{"sidegate.host=a.x", "sidegate.admin.host=b.x", "sidegate.admin.path=/admin/*"},
			want: []discovery.Claim{{Hosts: []string{"a.x"}}, {Route: "admin", Hosts: []string{"b.x"}, Paths: []string{"/admin/*"}}}},
		{name: "named twice", tags: []string{"sidegate.route=a", "sidegate.host=a.x", "sidegate.a.path=/a"},
			want: []discovery.Claim{{Route: "a", Hosts: []string{"a.x"}, Paths: []string{"/a"}}}},
		{name: "meta", meta: map[string]string{"sidegate-host": "a.x,b.x", "sidegate_weight": "7", "sidegate-my-api-host": "c.x", "sidegate.path": "/p"},
			want: []discovery.Claim{{Hosts: []string{"a.x", "b.x"}, Weight: 7, Paths: []string{"/p"}}, {Route: "my-api", Hosts: []string{"c.x"}}}},
		{name: "what a sidecar says of itself", tags: []string{"sidegate.host=a.x"}, meta: map[string]string{"sidegate-owner": "x", "sidegate-identity": "spiffe://fleet/svc/a"},
			want: []discovery.Claim{{Hosts: []string{"a.x"}}}},
		{name: "tags and meta", tags: []string{"sidegate.host=a.x"}, meta: map[string]string{"sidegate-path": "/p"},
			want: []discovery.Claim{{Hosts: []string{"a.x"}, Paths: []string{"/p"}}}},
		{name: "without a host", tags: []string{"sidegate.path=/a"}, want: []discovery.Claim{{Paths: []string{"/a"}}}},
		{name: "a bad key spoils its route only", tags: []string{"sidegate.host=a.x", "sidegate.b.host=b.x", "sidegate.b.wieght=5"},
			want: []discovery.Claim{{Hosts: []string{"a.x"}}}, problems: []string{`unknown key "wieght"`}},
		{name: "a bad key spoils the named route that it means", tags: []string{"sidegate.host=a.x", "sidegate.use", "sidegate.route=r"},
			problems: []string{"must be sidegate.KEY=VALUE"}},
		{name: "bad values", tags: []string{"sidegate.a.host=a b", "sidegate.b.host=a.x:80", "sidegate.c.path=orders", "sidegate.d.weight=0", "sidegate.e.weight=129",
			"sidegate.f.strip=/a/*", "sidegate.g.protocol=tcp", "sidegate.h.path=/../etc", "sidegate.i.use=", "sidegate.j.host=a.x,", "sidegate.k.path=/a?b", "sidegate.l.path=/a*"},
			problems: []string{`host "a b"`, `host "a.x:80"`, `path "orders"`, `weight "0"`, `weight "129"`, `strip "/a/*"`, `protocol "tcp"`, `path "/../etc"`,
				`policy ""`, `host ""`, `path "/a?b"`, `path "/a*"`}},
		{name: "given twice", tags: []string{"sidegate.host=a.x", "sidegate.weight=1", "sidegate.weight=2"}, problems: []string{"weight is given twice"}},
		{name: "bad route names", tags: []string{"sidegate.host.path=/a", "sidegate.a b.host=a.x", "sidegate.route=a/b", "sidegate.host=a.x"},
			problems: []string{`"a/b" isn't a usable route name`, `"host" isn't a usable route name`, `"a b" isn't a usable route name`}},
		{name: "too long", tags: []string{"sidegate.host=" + strings.Repeat("a", maxTag)}, problems: []string{"at most 4096"}},

		{name: "fabio", tags: []string{"urlprefix-Example.com/foo strip=/foo weight=0.25 proto=https"},
			want: []discovery.Claim{{Route: "example.com/foo", Hosts: []string{"example.com"}, Paths: []string{"/foo", "/foo/*"}, Strip: "/foo", Weight: 25, Protocol: "https"}}},
		{name: "fabio root, grpc", tags: []string{"urlprefix-example.com/ proto=grpc"},
			want: []discovery.Claim{{Route: "example.com/", Hosts: []string{"example.com"}, Paths: []string{"/*"}, Protocol: "h2c"}}},
		{name: "fabio without a host", tags: []string{"urlprefix-/foo/"}, want: []discovery.Claim{{Route: "/foo/", Paths: []string{"/foo", "/foo/*"}}}},
		{name: "fabio redirect", tags: []string{"urlprefix-example.com/ redirect=301,https://www.example.com$path"},
			want: []discovery.Claim{{Route: "example.com/", Hosts: []string{"example.com"}, Paths: []string{"/*"}, Redirect: "https://www.example.com{path}", Status: 301}}},
		{name: "fabio, two with one bad", tags: []string{"urlprefix-a.x/", "urlprefix-b.x/ allow=ip:10.0.0.0/8"},
			want:     []discovery.Claim{{Route: "a.x/", Hosts: []string{"a.x"}, Paths: []string{"/*"}}},
			problems: []string{"allow=ip:10.0.0.0/8"}},
		{name: "fabio, not supported", tags: []string{"urlprefix-:3306 proto=tcp", "urlprefix-a.x/ proto=tcp+sni", "urlprefix-:80", "urlprefix-b.x/ proto=ws", "urlprefix-c.x/ host=dst"},
			problems: []string{"proto=tcp isn't supported", "proto=tcp+sni isn't supported", "TCP", "proto=ws", `"host=dst" isn't supported`}},
		{name: "fabio, bad", tags: []string{"urlprefix-", "urlprefix- a.x/", "urlprefix-a.x", "urlprefix-a.x:80/", "urlprefix-a.x/ weight=2", "urlprefix-a.x/ weight=NaN",
			"urlprefix-a.x/ redirect=301", "urlprefix-a.x/ redirect=200,https://b/", "urlprefix-a.x/ redirect=301,javascript:x", "urlprefix-a.x/*"},
			problems: []string{"no host and path", "no host and path", "slash is missing", "without a port", `weight "2"`, `weight "NaN"`, "CODE,URL", "CODE,URL", "must be an http", "plain prefix"}},
		{name: "fabio, twice", tags: []string{"urlprefix-a.x/", "urlprefix-a.x/ weight=0.5"}, problems: []string{"claimed twice"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := discovery.Instance{ID: "n/1", Tags: tt.tags, Meta: tt.meta}
			got, problems := parseClaims("orders", in, bothPrefixes)
			var want []discovery.Claim
			for _, c := range tt.want {
				want = append(want, claim(c))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("claims (-want +got):\n%s", d)
			}
			var texts []string
			for _, p := range problems {
				if p.Service != "orders" || p.Instance != "n/1" {
					t.Errorf("problem of %s %s", p.Service, p.Instance)
				}
				texts = append(texts, p.Text)
			}
			if !slices.EqualFunc(texts, tt.problems, strings.Contains) {
				t.Errorf("problems = %q, want parts %q", texts, tt.problems)
			}
		})
	}
}

func TestParseClaimsBounds(t *testing.T) {
	var in discovery.Instance
	for i := range 2000 {
		in.Tags = append(in.Tags, "sidegate.r"+strings.Repeat("x", i%60)+strings.Repeat("y", i/60)+".host=a.x",
			"urlprefix-a.x/"+strings.Repeat("z", i), "sidegate.host=h"+strings.Repeat("0", i%60)+".x"+strings.Repeat("1", i/60))
	}
	claims, problems := parseClaims("s", in, bothPrefixes)
	if len(claims) > maxRoutes || len(problems) > maxProblems || len(problems) == 0 {
		t.Errorf("%d claims, %d problems", len(claims), len(problems))
	}
}

// Whatever registrations hold, what comes out is within bounds, valid, and the
// same each time.
func FuzzParseClaims(f *testing.F) {
	f.Add("sidegate.host=a.example.com", "sidegate.a.path=/x/*", "sidegate-weight", "5")
	f.Add("urlprefix-a.x/foo strip=/foo weight=0.5", "urlprefix-:80 proto=tcp", "sidegate_b_host", "b.x")
	f.Add("urlprefix-a.x/ redirect=301,https://b.x$path", "sidegate.route=r", "sidegate.use", "p,q")
	f.Add("sidegate.", "sidegate.=", "sidegate-", "\xff")
	f.Fuzz(func(t *testing.T, tag, tag2, key, value string) {
		in := discovery.Instance{ID: "i", Tags: []string{tag, tag2}, Meta: map[string]string{key: value}}
		claims, problems := parseClaims("s", in, bothPrefixes)
		again, problemsAgain := parseClaims("s", in, bothPrefixes)
		if d := cmp.Diff(claims, again); d != "" || !slices.Equal(problems, problemsAgain) {
			t.Fatalf("not the same twice:\n%s", d)
		}
		for _, c := range claims {
			for _, h := range c.Hosts {
				if got, err := host(h); err != nil || got != h {
					t.Errorf("host %q isn't canonical", h)
				}
			}
			for _, p := range c.Paths {
				if _, err := path(p); err != nil {
					t.Error(err)
				}
			}
			if c.Weight < 0 || c.Weight > maxWeight || c.Service != "s" || c.Instance != "i" || strings.ContainsAny(c.Strip+c.Redirect, "\r\n") {
				t.Errorf("claim = %+v", c)
			}
		}
		for _, p := range problems {
			if len(p.Text) > 2000 {
				t.Errorf("problem of %d bytes", len(p.Text))
			}
		}
		discovery.Merge(claims)
	})
}

func FuzzParse(f *testing.F) {
	f.Add(healthBody("web", some(2)))
	f.Add([]byte(`[{"Node":{"Node":"n"},"Service":{"ID":"x","Weights":null,"Port":-1},"Checks":[null]}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		set, err := parse(body, func(string, string, string) bool { return false })
		if err != nil {
			return
		}
		for _, in := range set {
			if in.ID == "" || in.Weight < 1 || in.Weight > maxWeight || in.Health > discovery.Maintenance {
				t.Errorf("instance = %+v", in)
			}
		}
	})
}

// What Consul's KV and catalog answer is read whole or not at all.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`[{"Key":"sidegate/routes/a","Value":"YQ=="},{"Key":"sidegate/routes/","Value":null}]`))
	f.Add([]byte(`{"web":["sidegate.host=a.x"],"db":[]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := parseKV(answer{body: body})
		for k, v := range keys {
			if err != nil || v == nil || strings.HasSuffix(k, "/") && len(v) == 0 {
				t.Errorf("key %q: %q, %v", k, v, err)
			}
		}
		if names, err := parseCatalog(answer{body: body}); err != nil && len(names) > 0 {
			t.Errorf("%v with %v", names, err)
		}
	})
}
