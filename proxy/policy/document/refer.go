package document

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// maxFiles bounds the files of a document.
const maxFiles = 1000

// Document is a file with those that it refers to.
type Document struct {
	Root *Node

	dir   *os.Root // while it is being read
	files map[string]*file
	stats []stat
}

// stat says which state of a file was read.
type stat struct {
	path string
	info os.FileInfo
}

// Read reads a document's file, and calls make, which may follow the
// document's references; later, nobody may.
func Read(name string, make func(*Document) error) (*Document, error) {
	dir, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	d := &Document{dir: dir, files: map[string]*file{}}
	f, err := d.open(filepath.Base(name))
	if err != nil {
		return d, err
	}
	d.Root = f.root
	err = make(d)
	d.dir = nil
	return d, err
}

// open reads a file of the document, once. Its name is relative to the
// document's folder, which os.Root doesn't let it leave.
func (d *Document) open(name string) (*file, error) {
	if f := d.files[name]; f != nil {
		return f, nil
	}
	if len(d.files) >= maxFiles {
		return nil, fmt.Errorf("refers to more than %d files", maxFiles)
	}
	in, err := d.dir.Open(filepath.FromSlash(name))
	if err != nil {
		d.stats = append(d.stats, stat{filepath.Join(d.dir.Name(), name), nil})
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return nil, fmt.Errorf("%s can't be read: %w", name, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	d.stats = append(d.stats, stat{filepath.Join(d.dir.Name(), name), info})
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s isn't a file", name)
	}
	text, err := io.ReadAll(io.LimitReader(in, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("%s can't be read: %w", name, err)
	}
	if len(text) > maxBytes {
		return nil, fmt.Errorf("%s has more than %d MiB", name, maxBytes>>20)
	}
	f, err := read(name, text)
	if err != nil {
		return nil, err
	}
	d.files[name] = f
	return f, nil
}

// Refer is the node that a reference (a node with the text of a $ref) leads to.
func (d *Document) Refer(ref *Node) (*Node, error) {
	if err := ref.Want("a reference", String); err != nil {
		return nil, err
	}
	u, err := url.Parse(ref.Text)
	switch {
	case err != nil:
		return nil, ref.Errorf("%q isn't a reference", ref.Text)
	case u.Scheme != "" || u.Host != "" || u.RawQuery != "" || path.IsAbs(u.Path):
		return nil, ref.Errorf("%q: a document refers to files in its own folder and below, and to nothing else", ref.Text)
	}
	in := ref.file
	if u.Path != "" {
		name := path.Join(path.Dir(in.name), u.Path)
		if !filepath.IsLocal(name) {
			return nil, ref.Errorf("%q leads out of the document's folder", ref.Text)
		}
		if in, err = d.open(name); err != nil {
			var placed *Error
			if errors.As(err, &placed) {
				return nil, err
			}
			return nil, ref.Errorf("%q: %v", ref.Text, err)
		}
	}
	if u.Fragment != "" && u.Fragment[0] != '/' {
		if n := in.ids[u.Fragment]; n != nil {
			return n, nil
		}
		return nil, ref.Errorf("%q: %s has no such $anchor", ref.Text, in.name)
	}
	return ref.follow(in.root, u.Fragment)
}

// follow walks a JSON pointer (RFC 6901).
func (n *Node) follow(at *Node, pointer string) (*Node, error) {
	if pointer == "" {
		return at, nil
	}
	for _, word := range strings.Split(pointer[1:], "/") {
		word = strings.ReplaceAll(strings.ReplaceAll(word, "~1", "/"), "~0", "~")
		next := at.Get(word)
		if at.Kind == List {
			if i, err := strconv.Atoi(word); err == nil && i >= 0 && i < len(at.Items) {
				next = at.Items[i]
			}
		}
		if next == nil {
			return nil, n.Errorf("%q: there is no %q%s", n.Text, word, Suggest(word, at.Keys))
		}
		at = next
	}
	return at, nil
}

// Follow is n, or what it refers to when it is a Reference Object, over
// several steps if need be.
func (d *Document) Follow(n *Node) (*Node, error) {
	for range 32 {
		ref := n.Get("$ref")
		if ref == nil {
			return n, nil
		}
		for i, key := range n.Keys {
			if key != "$ref" && key != "summary" && key != "description" && !strings.HasPrefix(key, "x-") {
				return nil, &Error{File: n.file.name, Line: n.keys[i].line, Column: n.keys[i].column, Text: fmt.Sprintf("%q has no meaning beside $ref", key)}
			}
		}
		next, err := d.Refer(ref)
		if err != nil {
			return nil, err
		}
		n = next
	}
	return nil, n.Errorf("a reference that leads to itself")
}
