// Sbom prints what a binary of ours is made of, as a CycloneDX 1.6 document in
// JSON: the modules in its build information, with their licences, which it finds
// in the module cache. It needs no network, and the same binary gives the same
// document.
//
//	go run ./packaging/sbom -version 1.2.3 -time 2026-11-25T02:00:00Z bin/sidegate >sidegate.cdx.json
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

func main() {
	version := flag.String("version", "0.0.0-dev", "the binary's version")
	at := flag.String("time", "", "the document's time, as in RFC 3339: the commit's")
	flag.Parse()
	if err := run(os.Stdout, flag.Arg(0), *version, *at); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, path, version, at string) error {
	if path == "" {
		return errors.New("no binary given")
	}
	when, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return fmt.Errorf("-time: %w", err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	licences, err := licencesOf(info.Deps)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(describe(info, sha256.Sum256(file), version, when, licences))
}

// The parts of CycloneDX 1.6 (ECMA-424) that we use.
type document struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licences   []licence  `json:"licenses"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type licence struct {
	Licence spdx `json:"license"`
}

type spdx struct {
	ID string `json:"id"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// describe makes the document. The serial number follows from the binary's digest.
func describe(info *debug.BuildInfo, digest [32]byte, version string, at time.Time, licences map[string][]string) document {
	subject := component{
		Type: "application", Name: "sidegate", Version: version, Licences: ids([]string{"Apache-2.0"}),
		PURL: purl(info.Main.Path, version), Hashes: []hash{{"SHA-256", hex.EncodeToString(digest[:])}},
		Properties: settings(info),
	}
	subject.Ref = subject.PURL
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	list := []component{{
		Type: "library", Name: "std", Version: goVersion, Licences: ids([]string{"BSD-3-Clause"}), PURL: purl("std", goVersion),
	}}
	for _, m := range info.Deps {
		m = inUse(m)
		list = append(list, component{
			Type: "library", Name: m.Path, Version: m.Version, Licences: ids(licences[m.Path]), PURL: purl(m.Path, m.Version), Hashes: sum(m),
		})
	}
	on := dependency{Ref: subject.Ref}
	for i := range list {
		list[i].Ref = list[i].PURL
		on.DependsOn = append(on.DependsOn, list[i].Ref)
	}
	return document{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
		Format: "CycloneDX", Spec: "1.6", Version: 1,
		Serial:     serial(digest),
		Metadata:   metadata{Timestamp: at.UTC().Format(time.RFC3339), Component: subject},
		Components: list, Dependencies: []dependency{on},
	}
}

// serial is a UUID of version 8 (RFC 9562 section 5.8): our own digest.
func serial(digest [32]byte) string {
	u := digest[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// inUse is the module that was compiled in the place of m.
func inUse(m *debug.Module) *debug.Module {
	if m.Replace != nil {
		return m.Replace
	}
	return m
}

// purl is the package URL of a Go module, whose type wants it in lower case.
func purl(path, version string) string {
	return "pkg:golang/" + strings.ToLower(path) + "@" + strings.ReplaceAll(version, "+", "%2B")
}

// sum is go.sum's h1: a SHA-256 over the digests of the module's files.
func sum(m *debug.Module) []hash {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
	if err != nil || len(b) != sha256.Size {
		return nil
	}
	return []hash{{"SHA-256", hex.EncodeToString(b)}}
}

// settings are those of the build by which another could be compared.
func settings(info *debug.BuildInfo) []property {
	list := []property{{"go:version", info.GoVersion}}
	for _, s := range info.Settings {
		list = append(list, property{"go:build:" + s.Key, s.Value})
	}
	return list
}

func ids(list []string) []licence {
	out := make([]licence, 0, len(list))
	for _, id := range list {
		out = append(out, licence{spdx{id}})
	}
	return out
}
