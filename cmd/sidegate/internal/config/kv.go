package config

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// Part is what one document of KV, or one registration, adds to the files. It
// stands or falls as a whole.
type Part struct {
	Origin   string // where it comes from: a KV key, a registration
	Services []*upstream.Config
	Bundles  []*Bundle
	Routes   []*Route

	decoder *decoder // nil: it wasn't written in the language
}

// remoteFile is what a document of KV may hold.
type remoteFile struct {
	Services []*upstream.Config `hcl:"service,block"`
	Bundles  []*Bundle          `hcl:"policy,block"`
	Routes   []*Route           `hcl:"route,block"`
}

// Problem says why a part was left out. It harms no other part.
type Problem struct {
	Origin      string
	Diagnostics *Diagnostics
}

// ParseKV reads the documents of KV, by key. One with an error is a problem;
// Merge checks the others against the files and each other.
func ParseKV(entries map[string][]byte, opt Options) ([]*Part, []Problem) {
	var parts []*Part
	var problems []Problem
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		d := newDecoder(opt, &Diagnostics{})
		p := &Part{Origin: key, decoder: d}
		d.document(key, entries[key], p)
		if d.diags.HasErrors() {
			problems = append(problems, Problem{key, d.diags})
			continue
		}
		parts = append(parts, p)
	}
	return parts, problems
}

// remoteConsumers is what a document of consumers may hold.
type remoteConsumers struct {
	Consumers []*consumer.Config `hcl:"consumer,block"`
}

// ParseConsumers reads a document of consumers that stands in no file. Whether
// their plans are there, and whether they are known by what others are, is for
// who puts them beside the files' ones.
func ParseConsumers(name string, src []byte, opt Options) ([]*consumer.Config, *Diagnostics) {
	d := newDecoder(opt, &Diagnostics{})
	doc := d.remote(name, src)
	if doc == nil {
		return nil, d.diags
	}
	r := &remoteConsumers{}
	d.body(doc, doc.body, r, "")
	f := &File{Consumers: r.Consumers}
	d.unique(f)
	(&checker{decoder: d, file: f}).consumers()
	if d.diags.HasErrors() {
		return nil, d.diags
	}
	return r.Consumers, d.diags
}

// remote reads a document that stands in no file as blocks; nil: it can't be.
func (d *decoder) remote(name string, src []byte) *document {
	if len(src) > maxDocument {
		d.diags.Errorf(hcl.Range{Filename: name}, "", "the document is larger than %d bytes", maxDocument)
		return nil
	}
	doc := &document{name: name, src: src, remote: true}
	if !doc.parse(d.diags) {
		return nil
	}
	return doc
}

func (d *decoder) document(key string, src []byte, p *Part) {
	doc := d.remote(key, src)
	if doc == nil {
		return
	}
	f := &remoteFile{}
	d.body(doc, doc.body, f, "")
	d.unique(&File{Services: f.Services, Bundles: f.Bundles, Routes: f.Routes})
	p.Services, p.Bundles, p.Routes = f.Services, f.Bundles, f.Routes
}
