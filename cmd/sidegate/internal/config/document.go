package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
	"github.com/zclconf/go-cty/cty"
)

// Bounds of what is read.
const (
	maxFile     = 64 << 20
	maxFiles    = 10000
	maxDocument = 512 << 10 // of KV: Consul's own bound
	maxSecret   = 1 << 20   // file() and credential()
	maxNamed    = 256 << 20 // a file that an argument names
)

// document is one text that holds blocks.
type document struct {
	name   string
	src    []byte
	dir    string // what relative paths in it are relative to
	others bool   // other users of this host may read it
	remote bool   // it came from KV: no functions, no loops, no relative paths
	body   hcl.Body
	eval   *hcl.EvalContext
}

// find names the files of a configuration: path itself, or the *.hcl and
// *.hcl.json in it.
func find(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path) // sorted
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		n := e.Name()
		if strings.HasPrefix(n, ".") || e.IsDir() || !strings.HasSuffix(n, ".hcl") && !strings.HasSuffix(n, ".hcl.json") {
			continue
		}
		files = append(files, filepath.Join(path, n))
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("%s has more than %d files", path, maxFiles)
	}
	return files, nil
}

// read reads the file at path.
func read(path string) (*document, error) {
	src, mode, err := readBounded(path, maxFile)
	if err != nil {
		return nil, err
	}
	return &document{name: path, src: src, dir: filepath.Dir(path), others: mode.Perm()&0o004 != 0}, nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, os.FileMode, error) {
	// Opening a pipe for reading waits for its writer; so look first.
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, err
	}
	if info.IsDir() {
		return nil, 0, fmt.Errorf("%s is a folder", path)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s isn't a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, 0, err
	}
	if int64(len(b)) > limit {
		return nil, 0, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return b, info.Mode(), nil
}

// parse fills in body. It reports whether the text can be read as blocks.
func (d *document) parse(diags *Diagnostics) bool {
	if diags.source == nil {
		diags.source = map[string][]byte{}
	}
	diags.source[d.name] = d.src
	if at, ok := d.tooDeep(); ok {
		diags.Errorf(at, "", "brackets or operators nested more than %d deep", maxNesting)
		return false
	}
	var f *hcl.File
	var found hcl.Diagnostics
	if d.isJSON() {
		f, found = json.Parse(d.src, d.name)
	} else {
		f, found = hclsyntax.ParseConfig(d.src, d.name, hcl.InitialPos)
	}
	diags.addHCL(found)
	if found.HasErrors() {
		d.hideSecrets(diags)
	}
	if f == nil || f.Body == nil || unreadable(found) {
		return false
	}
	d.body = f.Body
	if b, ok := f.Body.(*hclsyntax.Body); ok && d.remote {
		return !d.loops(b, diags)
	}
	return true
}

// stateDir is the state_dir of a text that can't be decoded, as far as the parser
// got: what asks a gateway that runs has to find it, above all then. "": none.
func (d *document) stateDir() string {
	if d.isJSON() {
		return ""
	}
	if _, deep := d.tooDeep(); deep {
		return ""
	}
	f, _ := hclsyntax.ParseConfig(d.src, d.name, hcl.InitialPos)
	if f == nil {
		return ""
	}
	b, ok := f.Body.(*hclsyntax.Body)
	if !ok || b.Attributes["state_dir"] == nil {
		return ""
	}
	v, found := b.Attributes["state_dir"].Expr.Value(nil)
	if found.HasErrors() || v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return ""
	}
	if dir := v.AsString(); filepath.IsAbs(dir) {
		return dir
	}
	return ""
}

// unreadable reports whether the parser may have got the structure wrong: an
// argument that stands twice says nothing about the others.
func unreadable(found hcl.Diagnostics) bool {
	return slices.ContainsFunc(found, func(h *hcl.Diagnostic) bool {
		return h.Severity == hcl.DiagError && h.Summary != "Attribute redefined"
	})
}

// hideSecrets keeps what looks like a secret out of the lines that are shown
// of a text that isn't decoded, or not all of it.
func (d *document) hideSecrets(diags *Diagnostics) {
	begin := 0
	for i, line := range bytes.SplitAfter(d.src, []byte("\n")) {
		low := bytes.Clone(line) // byte by byte: what isn't UTF-8 must keep its place
		for i, c := range low {
			if 'A' <= c && c <= 'Z' {
				low[i] = c | 0x20
			}
		}
		for _, word := range []string{"token", "secret", "password", "key"} {
			at := bytes.Index(low, []byte(word))
			if at < 0 {
				continue
			}
			value := bytes.IndexAny(line[at:], "=:")
			if value < 0 {
				continue
			}
			from := at + value + 1
			diags.secrets = append(diags.secrets, hcl.Range{
				Filename: d.name,
				Start:    hcl.Pos{Line: i + 1, Column: from + 1, Byte: begin + from},
				End:      hcl.Pos{Line: i + 1, Column: len(line) + 1, Byte: begin + len(line)},
			})
			break
		}
		begin += len(line)
	}
}

func (d *document) isJSON() bool { return strings.HasSuffix(d.name, ".json") && !d.remote }

// loops refuses expressions that can take long: KV is written by many.
func (d *document) loops(b *hclsyntax.Body, diags *Diagnostics) bool {
	found := false
	_ = hclsyntax.VisitAll(b, func(n hclsyntax.Node) hcl.Diagnostics {
		switch n.(type) {
		case *hclsyntax.ForExpr, *hclsyntax.SplatExpr, *hclsyntax.TemplateJoinExpr:
			found = true
			diags.Errorf(n.Range(), "Write the values out.", "loops aren't allowed in KV")
		}
		return nil
	})
	return found
}

// item is an argument or a block in a body, as it was written.
type item struct {
	name   string
	at     hcl.Range      // of the name; of a block, its header
	expr   hcl.Expression // nil: a block
	labels []string
	inner  hcl.Body
}

// items lists what is in a body, in order. The JSON form can't be read without
// the schema, and so reports by itself what is in none.
func (d *document) items(body hcl.Body, s *schema, diags *Diagnostics) []item {
	var list []item
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		content, found := body.Content(s.hcl())
		diags.addHCL(found)
		for _, a := range content.Attributes {
			list = append(list, item{name: a.Name, at: a.NameRange, expr: a.Expr})
		}
		for _, b := range content.Blocks {
			list = append(list, item{name: b.Type, at: b.DefRange, labels: b.Labels, inner: b.Body})
		}
	} else {
		for _, a := range native.Attributes {
			list = append(list, item{name: a.Name, at: a.NameRange, expr: a.Expr})
		}
		for _, b := range native.Blocks {
			list = append(list, item{name: b.Type, at: b.DefRange(), labels: b.Labels, inner: b.Body})
		}
	}
	slices.SortStableFunc(list, func(a, b item) int { return a.at.Start.Byte - b.at.Start.Byte })
	return list
}
