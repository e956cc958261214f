package waf

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"
)

// flatten calls add with the values of a JSON document, each named by its path:
// in {"a":[{"b":"x"},{"b":"y"}]} both are json.a.b. Coraza could do that, but by
// numbering the elements of arrays, and asking all rules about each number in
// each of them, which in most documents is most of the work. So what can't
// be an attack is given once for each name, with nothing as its value.
//
// It returns what it didn't get to, because the document ends too early, goes
// too deep, or isn't one; nil: nothing. add returns false to end it.
func flatten(doc []byte, add func(name, value string) bool) (rest []byte) {
	rest = doc // never nil
	if rest == nil {
		rest = []byte{}
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	w := walk{name: []byte("json"), add: add, seen: map[string]struct{}{}}
	for {
		token, err := d.Token()
		switch {
		case err == io.EOF && w.begun && len(w.levels) == 0:
			if json.Valid(doc) && utf8.Valid(doc) { // it is one document, and in UTF-8 (RFC 8259, 8.1)
				return nil
			}
			return rest
		case err != nil:
			return rest[d.InputOffset():]
		case !w.token(token):
			return rest[d.InputOffset():]
		}
	}
}

// walk is where flatten is in a document.
type walk struct {
	name   []byte // of the value that comes next
	levels []level
	begun  bool
	add    func(name, value string) bool
	seen   map[string]struct{} // "name\x00value"
}

// level is an object or array that is open.
type level struct {
	length int  // of the name outside its members
	object bool // what comes next is a key, if
	value  bool // it isn't a value
}

// token takes one in, and reports whether to go on.
func (w *walk) token(t json.Token) bool {
	w.begun = true
	if delim, ok := t.(json.Delim); ok {
		return w.delim(delim)
	}
	in := w.inner()
	if in != nil && in.object && !in.value {
		w.name = append(append(w.name[:in.length], '.'), t.(string)...) // a key is a string
		in.value = true
		return true
	}
	text, _ := t.(string) // numbers, true, false and null can't be an attack
	if harmless(text) {
		text = ""
	}
	ok := w.give(text)
	w.ended()
	return ok
}

func (w *walk) delim(delim json.Delim) bool {
	if delim == '{' || delim == '[' {
		w.levels = append(w.levels, level{length: len(w.name), object: delim == '{'})
		return len(w.levels) <= mostDepth
	}
	w.name = w.name[:w.inner().length]
	w.levels = w.levels[:len(w.levels)-1]
	w.ended()
	return true
}

// ended notes that a value has ended: in an object, a key comes next.
func (w *walk) ended() {
	if in := w.inner(); in != nil {
		in.value = false
		w.name = w.name[:in.length]
	}
}

func (w *walk) inner() *level {
	if len(w.levels) == 0 {
		return nil
	}
	return &w.levels[len(w.levels)-1]
}

// give gives a value, unless the same has been given before.
func (w *walk) give(value string) bool {
	n := len(w.name)
	both := string(append(append(w.name, 0), value...))
	w.name = w.name[:n]
	if _, ok := w.seen[both]; ok {
		return true
	}
	w.seen[both] = struct{}{}
	return w.add(both[:n], value)
}

// harmless reports whether a value is nothing, a number, a time, or a UUID. An
// address (169.254.169.254, ::1) and a comment (1--) aren't.
func harmless(s string) bool {
	if len(s) > 40 || strings.Count(s, ".") > 1 || strings.Contains(s, "--") || strings.Contains(s, "::") {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', c == '.', c == '-', c == '+', c == ':', c == 'T', c == 'Z':
		case len(s) == 36 && ('a' <= c && c <= 'f' || 'A' <= c && c <= 'F'):
		default:
			return false
		}
	}
	return true
}
