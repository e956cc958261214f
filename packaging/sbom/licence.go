package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// licencesOf finds the licences of modules: SPDX identifiers by path. One without
// a licence that we know is an error: it has to be looked at before we ship it.
func licencesOf(modules []*debug.Module) (map[string][]string, error) {
	args := []string{"mod", "download", "-json"}
	for _, m := range modules {
		args = append(args, inUse(m).Path+"@"+inUse(m).Version)
	}
	c := exec.Command("go", args...)
	c.Env = append(os.Environ(), "GOPROXY=off") // they were compiled just now, so they are in the cache
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w", err)
	}
	found := map[string][]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var m struct{ Path, Dir string }
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		if found[m.Path], err = licencesIn(m.Dir); err != nil {
			return nil, fmt.Errorf("module %s: %w", m.Path, err)
		}
	}
}

// licencesIn reads the licence files of a module's folder.
func licencesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		name := strings.ToLower(e.Name())
		if !e.Type().IsRegular() || !strings.HasPrefix(name, "licen") && !strings.HasPrefix(name, "copying") && !strings.HasPrefix(name, "unlicense") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		list = append(list, licences(string(text))...)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no licence that we know in %s", dir)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// known are sentences that only one licence has.
var known = []struct {
	id   string
	text string
}{
	{"Apache-2.0", "apache license version 2.0"},
	{"MPL-2.0", "mozilla public license version 2.0"},
	{"MIT", "the above copyright notice and this permission notice shall be included in all copies"},
	{"ISC", "provided that the above copyright notice and this permission notice appear in all copies"},
	{"BSD-2-Clause", "redistribution and use in source and binary forms"}, // or three clauses: see below
	{"CC0-1.0", "cc0 1.0 universal"},
	{"Unlicense", "this is free and unencumbered software released into the public domain"},
	{"MIT-0", "mit no attribution"},
}

var notWords = regexp.MustCompile(`[^a-z0-9.]+`)

// licences are those that a text holds, one or several after another.
func licences(text string) []string {
	text = notWords.ReplaceAllString(strings.ToLower(text), " ")
	var list []string
	for _, k := range known {
		if !strings.Contains(text, k.text) {
			continue
		}
		if k.id == "BSD-2-Clause" && strings.Contains(text, "endorse or promote products derived from this software") {
			k.id = "BSD-3-Clause"
		}
		list = append(list, k.id)
	}
	return list
}
