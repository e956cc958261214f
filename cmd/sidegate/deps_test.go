package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// layers says which of our packages may import which. Don't change it to fix a
// build: it is the architecture.
//
//	A < B: B may import A, and what A's line allows it stays A's business.
var layers = map[string][]string{
	"proxy/exchange":                 nil,
	"proxy/sweep":                    nil,
	"proxy/secret":                   nil,
	"proxy/linelog":                  nil,
	"proxy/estate":                   nil,
	"proxy/balance":                  nil,
	"proxy/abuse":                    nil,
	"proxy/memory":                   nil,
	"proxy/tail":                     {"proxy/exchange"},
	"proxy/gradient":                 nil,
	"proxy/proxyproto":               nil,
	"systemd":                        nil,
	"proxy/socket":                   nil,
	"proxy/h1":                       {"proxy/abuse", "proxy/exchange", "proxy/socket", "proxy/sweep"},
	"proxy/h2":                       {"proxy/abuse", "proxy/exchange", "proxy/socket", "proxy/sweep"},
	"proxy/h3":                       {"proxy/abuse", "proxy/exchange", "proxy/sweep"},
	"proxy/route":                    {"proxy/exchange"},
	"proxy/policy":                   {"proxy/exchange"},
	"proxy/policy/*":                 {"proxy/estate", "proxy/exchange", "proxy/policy", "proxy/policy/*", "proxy/route", "proxy/secret"},
	"discovery":                      nil,
	"discovery/*":                    {"discovery", "proxy/secret"},
	"discovery/sidecar":              {"discovery/consul"},
	"tls":                            {"proxy/secret"},
	"proxy/upstream":                 {"proxy/exchange", "proxy/socket", "proxy/sweep", "proxy/balance", "proxy/gradient", "proxy/h1", "proxy/h2", "discovery"},
	"proxy/usage":                    {"proxy/exchange", "proxy/secret"},
	"proxy/tracing":                  {"proxy/exchange", "proxy/secret"},
	"proxy/usage/*":                  {"proxy/estate", "proxy/usage", "proxy/secret"},
	"proxy":                          {"proxy/abuse", "proxy/exchange", "proxy/memory", "proxy/socket", "proxy/sweep", "proxy/h1", "proxy/h2", "proxy/h3", "proxy/route", "proxy/policy", "proxy/upstream", "proxy/proxyproto", "proxy/linelog", "proxy/tail", "proxy/tracing", "proxy/usage"},
	"proxy/bench":                    nil,
	"packaging/image":                nil,
	"packaging/sbom":                 nil,
	"cmd/sidegate/internal/admin":    {"cmd/sidegate/internal/traffic", "proxy", "proxy/memory", "proxy/policy/ban", "proxy/policy/cache", "proxy/policy/charge", "proxy/policy/quota", "proxy/secret", "proxy/tail", "proxy/upstream", "proxy/usage", "tls"},
	"cmd/sidegate/internal/handover": nil,
	"cmd/sidegate/internal/traffic":  {"proxy"},
	"cmd/sidegate/internal/config": {
		"proxy", "proxy/exchange", "proxy/policy", "proxy/policy/*", "proxy/route", "proxy/secret", "proxy/tracing", "proxy/upstream", "proxy/usage", "proxy/usage/postgres", "discovery/*", "tls",
	},
	"cmd/sidegate/internal/app": {
		"proxy", "proxy/*", "proxy/policy/*", "discovery", "discovery/*", "tls", "systemd", "cmd/sidegate/internal/*",
	},
	"cmd/sidegate/internal/setup": {"cmd/sidegate/internal/app", "cmd/sidegate/internal/config", "tls"},
	"cmd/sidegate/internal/doctor": {
		"cmd/sidegate/internal/admin", "cmd/sidegate/internal/app", "cmd/sidegate/internal/config", "discovery/consul", "proxy/memory", "proxy/policy/shared", "tls",
	},
	"cmd/sidegate":     {"cmd/sidegate/internal/*", "discovery/*", "tls", "proxy/upstream", "proxy/usage", "proxy/policy/ban", "proxy/policy/cache", "proxy/policy/charge", "proxy/policy/quota"},
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

// TestNoTemplates: a template may call any method by its name, so the linker
// keeps every exported method of every type as soon as text/template can be
// reached: 13 MB of ours. Cobra has functions that reach it; the linker leaves
// them out while nothing calls them.
func TestNoTemplates(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if strings.TrimPrefix(words[0], module) == "proxy/bench" { // a command of its own
			continue
		}
		for _, imp := range words[1:] {
			if imp == "text/template" || imp == "html/template" {
				t.Errorf("%s imports %s: the binary gets 13 MB larger", words[0], imp)
			}
		}
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"SetUsageTemplate", "SetHelpTemplate", "SetVersionTemplate", "AddTemplateFunc"} {
			if !strings.HasSuffix(file, "_test.go") && strings.Contains(string(text), "."+name+"(") {
				t.Errorf("%s calls cobra's %s, which reaches text/template", file, name)
			}
		}
	}
}
