package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// TestOfABinary describes the binary twice.
func TestOfABinary(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "sidegate")
	if out, err := exec.Command("go", "build", "-o", bin, "../../cmd/sidegate").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var first, second bytes.Buffer
	for _, b := range []*bytes.Buffer{&first, &second} {
		if err := run(b, bin, "1.2.3", "2026-11-25T02:00:00+01:00"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two documents of one binary differ")
	}
	var d document
	if err := json.Unmarshal(first.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if d.Metadata.Timestamp != "2026-11-25T01:00:00Z" || d.Metadata.Component.Version != "1.2.3" {
		t.Errorf("metadata %+v", d.Metadata)
	}
	byName := map[string]component{}
	for _, c := range d.Components {
		byName[c.Name] = c
		if len(c.Licences) == 0 || c.Version == "" || c.Name != "std" && len(c.Hashes) != 1 {
			t.Errorf("%s: licences, version or hash are missing: %+v", c.Name, c)
		}
	}
	for name, id := range map[string]string{
		"std": "BSD-3-Clause", "github.com/hashicorp/consul/api": "MPL-2.0", "github.com/quic-go/quic-go": "MIT", "github.com/prometheus/client_golang": "Apache-2.0",
	} {
		if c := byName[name]; len(c.Licences) != 1 || c.Licences[0].Licence.ID != id {
			t.Errorf("%s: %+v, want %s alone", name, c.Licences, id)
		}
	}
	if len(d.Dependencies) != 1 || len(d.Dependencies[0].DependsOn) != len(d.Components) {
		t.Errorf("dependencies %+v", d.Dependencies)
	}
}

// TestLicences: texts that are known, and one that isn't, which is an error.
func TestLicences(t *testing.T) {
	dir := t.TempDir()
	if _, err := licencesIn(dir); err == nil {
		t.Error("a module without a licence is taken")
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("LICENSE", "GNU GENERAL PUBLIC LICENSE\nVersion 3")
	if _, err := licencesIn(dir); err == nil || !strings.Contains(err.Error(), "no licence") {
		t.Errorf("a licence that we don't know: %v", err)
	}
	write("LICENSE", "Apache License\n   Version 2.0, January 2004\n\nRedistribution and use in source\n// and binary forms")
	write("LICENSE.md", "Apache License, Version 2.0")
	got, err := licencesIn(dir)
	if err != nil || !slices.Equal(got, []string{"Apache-2.0", "BSD-2-Clause"}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestReplaced has the module that was compiled.
func TestReplaced(t *testing.T) {
	m := &debug.Module{Path: "a.test/Old", Version: "v1.0.0", Replace: &debug.Module{Path: "a.test/New", Version: "v2.0.0+incompatible"}}
	if got := purl(inUse(m).Path, inUse(m).Version); got != "pkg:golang/a.test/new@v2.0.0%2Bincompatible" {
		t.Error(got)
	}
}
