package main

import (
	"os/exec"
	"strings"
	"testing"
)

// layers says which of our packages may import which. Don't change it to fix a
// build: it is the architecture.
//
//	A < B: B may import A, and what A's line allows it stays A's business.
var layers = map[string][]string{
	"proxy/exchange":              nil,
	"proxy/sweep":                 nil,
	"proxy/secret":                nil,
	"proxy/linelog":               nil,
	"proxy/balance":               nil,
	"proxy/abuse":                 nil,
	"proxy/memory":                nil,
	"proxy/gradient":              nil,
	"proxy/proxyproto":            nil,
	"systemd":                     nil,
	"proxy/socket":                nil,
	"proxy/h1":                    {"proxy/abuse", "proxy/exchange", "proxy/socket", "proxy/sweep"},
	"proxy/h2":                    {"proxy/abuse", "proxy/exchange", "proxy/socket", "proxy/sweep"},
	"proxy/h3":                    {"proxy/abuse", "proxy/exchange", "proxy/sweep"},
	"proxy/route":                 {"proxy/exchange"},
	"proxy/policy":                {"proxy/exchange"},
	"proxy/policy/*":              {"proxy/exchange", "proxy/policy", "proxy/policy/*", "proxy/route", "proxy/secret"},
	"discovery":                   nil,
	"discovery/*":                 {"discovery", "proxy/secret"},
	"tls":                         {"proxy/secret"},
	"proxy/upstream":              {"proxy/exchange", "proxy/socket", "proxy/sweep", "proxy/balance", "proxy/gradient", "proxy/h1", "proxy/h2", "discovery"},
	"proxy/usage":                 {"proxy/exchange", "proxy/secret"},
	"proxy/usage/*":               {"proxy/usage", "proxy/secret"},
	"proxy":                       {"proxy/usage", "proxy/abuse", "proxy/exchange", "proxy/memory", "proxy/socket", "proxy/sweep", "proxy/h1", "proxy/h2", "proxy/h3", "proxy/route", "proxy/policy", "proxy/upstream", "proxy/proxyproto", "proxy/linelog"},
	"proxy/bench":                 nil,
	"cmd/sidegate/internal/admin": {"proxy", "proxy/memory", "proxy/policy/ban", "proxy/policy/cache", "proxy/policy/quota", "proxy/secret", "proxy/upstream", "proxy/usage", "tls"},
	"cmd/sidegate/internal/config": {
		"proxy", "proxy/exchange", "proxy/policy", "proxy/policy/*", "proxy/route", "proxy/secret", "proxy/upstream", "proxy/usage", "proxy/usage/postgres", "discovery/*", "tls",
	},
	"cmd/sidegate/internal/app": {
		"proxy", "proxy/*", "proxy/policy/*", "discovery", "discovery/*", "tls", "systemd", "cmd/sidegate/internal/*",
	},
	"cmd/sidegate":     {"cmd/sidegate/internal/*", "discovery/*", "tls", "proxy/upstream", "proxy/usage", "proxy/policy/ban", "proxy/policy/quota"},
	"cmd/sidegate/e2e": nil,
}

const module = "github.com/sidegate-proxy/sidegate/"

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		pkg := strings.TrimPrefix(words[0], module)
		allowed, known := lookup(pkg)
		if !known {
			t.Errorf("%s has no line in layers: say what it may import", pkg)
			continue
		}
		for _, imp := range words[1:] {
			own, ours := strings.CutPrefix(imp, module)
			if ours && !matches(allowed, own) {
				t.Errorf("%s imports %s, which its layer doesn't allow", pkg, own)
			}
		}
	}
}

func lookup(pkg string) ([]string, bool) {
	if list, ok := layers[pkg]; ok {
		return list, true
	}
	for pattern, list := range layers {
		if matches([]string{pattern}, pkg) {
			return list, true
		}
	}
	return nil, false
}

func matches(patterns []string, pkg string) bool {
	for _, p := range patterns {
		prefix, wild := strings.CutSuffix(p, "*")
		if p == pkg || wild && strings.HasPrefix(pkg, prefix) {
			return true
		}
	}
	return false
}
