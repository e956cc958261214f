// Package document reads the documents that policies go by, such as OpenAPI
// descriptions: YAML or JSON, of one file or several that refer to each other
// with $ref. Each node knows where it stands, so that whoever reads it can say
// what is wrong at file, line and column.
//
// A document refers to files in its own folder and below, and to nothing on a
// network. What a node means isn't this package's matter. It starts no
// goroutine.
//
//	document.go  nodes, and what can be asked of them
//	read.go      YAML and JSON into nodes
//	refer.go     $ref
//	files.go     documents that several routes share
package document

import (
	"fmt"
	"strings"
)

// Kind is what a node is.
type Kind uint8

// The kinds of nodes.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Map
)

// String is the kind as an error names it.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Bool:
		return "true or false"
	case Number:
		return "a number"
	case String:
		return "text"
	case List:
		return "a list"
	default:
		return "a map"
	}
}

// Node is a value in a document. It never changes once it is read.
type Node struct {
	Kind  Kind
	Text  string   // a scalar's; a number's as JSON writes it
	Keys  []string // a map's, in their order
	Items []*Node  // a list's, or the values of a map's keys

	file  *file
	place         // where it starts
	keys  []place // where a map's keys stand
}

// place is a place in a file.
type place struct{ line, column int }

// Get is the value of a key of a map; nil: it has none, or n is no map.
func (n *Node) Get(key string) *Node {
	if n == nil || n.Kind != Map {
		return nil
	}
	for i, k := range n.Keys {
		if k == key {
			return n.Items[i]
		}
	}
	return nil
}

// True reports whether n is the value true.
func (n *Node) True() bool { return n != nil && n.Kind == Bool && n.Text == "true" }

// Error is what is wrong at a place of a document.
type Error struct {
	File         string
	Line, Column int
	Text         string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text) }

// Errorf says what is wrong with n.
func (n *Node) Errorf(format string, args ...any) error {
	return &Error{File: n.file.name, Line: n.line, Column: n.column, Text: fmt.Sprintf(format, args...)}
}

// Want is an error unless n is of the kind.
func (n *Node) Want(what string, k Kind) error {
	if n.Kind == k {
		return nil
	}
	return n.Errorf("%s is %s, and has to be %s", what, n.Kind, k)
}

// Unknown says that a map has a key that it can't have, and which one was most
// likely meant.
func (n *Node) Unknown(i int, what string, known []string) error {
	key := n.Keys[i]
	text := fmt.Sprintf("unknown %s %q", what, key)
	if near := nearest(key, known); near != "" {
		text += fmt.Sprintf(": did you mean %q?", near)
	}
	return &Error{File: n.file.name, Line: n.keys[i].line, Column: n.keys[i].column, Text: text}
}

// Suggest is ": did you mean …?", or nothing when no word is near.
func Suggest(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf(": did you mean %q?", near)
	}
	return ""
}

// nearest is the word that a typo most likely meant; "": none is near.
func nearest(word string, known []string) string {
	best, least := "", 3
	if len(word) < 4 {
		least = 2
	}
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to add, to take out or to change.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			here := row[j+1]
			if a[i] != b[j] {
				last = 1 + min(last, here, row[j])
			}
			row[j+1], last = last, here
		}
	}
	return row[len(b)]
}
