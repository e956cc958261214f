package app

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// TestBadFeedsAreIsolated: what registrations and KV entries get wrong harms
// neither the files' routes nor the start.
func TestBadFeedsAreIsolated(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sidegate.hcl")
	text := `
state_dir = "` + dir + `/state"
listener "http" {
  address = "127.0.0.1:0"
  tls     = false
}
consul {
  expose {
    hosts = ["*.example.com"]
  }
}
route "fixed" {
  hosts   = ["fixed.example.com"]
  service = "fixed"
}
service "fixed" {
  instances = ["127.0.0.1:1"]
}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	good := discovery.Claim{Service: "good", Instance: "g", Hosts: []string{"good.example.com"}}
	tests := []struct {
		name  string
		claim discovery.Claim
		kv    map[string]string
	}{
		{name: "open brace", claim: discovery.Claim{Paths: []string{"/a/{b"}}},
		{name: "two stars", claim: discovery.Claim{Paths: []string{"/a/*/b/*"}}},
		{name: "no slash", claim: discovery.Claim{Paths: []string{"a"}}},
		{name: "params twice", claim: discovery.Claim{Paths: []string{"/{a}/{a}"}}},
		{name: "host", claim: discovery.Claim{Hosts: []string{"*.*.example.com"}}},
		{name: "host with port", claim: discovery.Claim{Hosts: []string{"bad.example.com:x"}}},
		{name: "redirect", claim: discovery.Claim{Redirect: "http://{x", Status: 302}},
		{name: "status", claim: discovery.Claim{Redirect: "http://x.example.com/", Status: 200}},
		{name: "strip", claim: discovery.Claim{Strip: "nope"}},
		{name: "bundle", claim: discovery.Claim{Use: []string{"unknown"}}},
		{name: "service name", claim: discovery.Claim{Service: "a b\x00"}},
		{name: "kv route", kv: map[string]string{"sidegate/routes/bad": `route "bad" {
  hosts   = ["bad.example.com"]
  paths   = ["/{a"]
  service = "fixed"
}`}},
		{name: "kv garbage", kv: map[string]string{"sidegate/routes/bad": "{{{"}},
		{name: "kv certificate", kv: map[string]string{"sidegate/routes/bad": `route "bad" {
  hosts   = ["bad.example.com"]
  service = "bad"
}
service "bad" {
  protocol  = "https"
  instances = ["127.0.0.1:1"]
  tls {
    cert_file = "` + path + `"
    key_file  = "` + path + `"
  }
}`}},
		{name: "kv authority", kv: map[string]string{"sidegate/routes/bad": `route "bad" {
  hosts   = ["bad.example.com"]
  service = "bad"
}
service "bad" {
  protocol  = "https"
  instances = ["127.0.0.1:1"]
  tls {
    ca_file = "` + path + `"
  }
}`}},
		{name: "kv tls without tls", kv: map[string]string{"sidegate/routes/bad": `route "bad" {
  hosts   = ["bad.example.com"]
  service = "bad"
}
service "bad" {
  instances = ["127.0.0.1:1"]
  tls {
    insecure = true
  }
}`}},
		{name: "kv instances", kv: map[string]string{"sidegate/routes/bad": `route "bad" {
  hosts   = ["bad.example.com"]
  service = "bad"
}
service "bad" {
  instances = ["nonsense"]
}`}},
		{name: "kv hash_by", kv: map[string]string{"sidegate/routes/bad": `route "bad" {
  hosts   = ["bad.example.com"]
  service = "bad"
}
service "bad" {
  instances = ["127.0.0.1:1"]
  balance   = "hash"
  hash_by   = "nonsense"
}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opt := Options{Config: path, Stderr: io.Discard}
			file, err := load(opt)
			if err != nil {
				t.Fatal(err)
			}
			a, err := assemble(opt, file)
			if err != nil {
				t.Fatal(err)
			}
			a.log.SetOutput(io.Discard)
			said := said{claims: []discovery.Claim{good}, kv: map[string][]byte{}}
			if tt.kv == nil {
				bad := tt.claim
				if bad.Service == "" {
					bad.Service = "bad"
				}
				bad.Instance = "b"
				if bad.Hosts == nil {
					bad.Hosts = []string{"bad.example.com"}
				}
				said.claims = append(said.claims, bad)
			}
			for k, v := range tt.kv {
				said.kv[k] = []byte(v)
			}
			r, err := a.prepare(file, &said)
			if err != nil {
				t.Fatalf("prepare = %v", err)
			}
			names := map[string]bool{}
			for _, p := range r.table.Routes {
				names[p.Name] = true
			}
			if !names["fixed"] || !names["good"] {
				t.Errorf("routes = %v, want fixed and good among them", names)
			}
			t.Log(names, r.problems)
		})
	}
}
