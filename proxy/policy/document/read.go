package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxBytes bounds a file.
	maxBytes = 16 << 20
	// maxDepth bounds how deep values stand in each other.
	maxDepth = 200
	// maxNodes bounds a file with all that its YAML aliases repeat.
	maxNodes = 1 << 20
)

// file is one file of a document.
type file struct {
	name string // relative to the document's folder
	root *Node
	ids  map[string]*Node // by $anchor
}

// read makes nodes of a file's text.
func read(name string, text []byte) (*file, error) {
	f := &file{name: name}
	r := reader{file: f}
	var err error
	// JSON is read as such: YAML has other ideas of tabs and of some escapes.
	if b := bytes.TrimLeft(text, " \t\r\n"); strings.HasSuffix(name, ".json") || len(b) > 0 && b[0] == '{' && json.Valid(b) {
		f.root, err = r.json(text)
	} else {
		f.root, err = r.yaml(text)
	}
	if err != nil {
		return nil, err
	}
	f.anchors(f.root)
	return f, nil
}

// anchors notes the schemas that have a name of their own.
func (f *file) anchors(n *Node) {
	if a := n.Get("$anchor"); a != nil && a.Kind == String {
		if f.ids == nil {
			f.ids = map[string]*Node{}
		}
		if f.ids[a.Text] == nil {
			f.ids[a.Text] = n
		}
	}
	for _, i := range n.Items {
		f.anchors(i)
	}
}

// reader makes the nodes of one file.
type reader struct {
	file  *file
	nodes int
}

func (r *reader) node(k Kind, line, column int) (*Node, error) {
	if r.nodes++; r.nodes > maxNodes {
		return nil, fmt.Errorf("%s: has more than %d values", r.file.name, maxNodes)
	}
	return &Node{Kind: k, file: r.file, place: place{line, column}}, nil
}

// add puts a value under a key, which must be new.
func (n *Node) add(key string, at place, value *Node) error {
	n.Keys, n.Items, n.keys = append(n.Keys, key), append(n.Items, value), append(n.keys, at)
	if i := slices.Index(n.Keys, key); i < len(n.Keys)-1 {
		return &Error{n.file.name, at.line, at.column, fmt.Sprintf("%q stands here for the second time", key)}
	}
	return nil
}

// yaml reads one YAML document.
func (r *reader) yaml(text []byte) (*Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: is empty", r.file.name)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %s", r.file.name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if d.Decode(&more) == nil {
		return nil, fmt.Errorf("%s:%d: has a second YAML document", r.file.name, more.Line)
	}
	return r.value(doc.Content[0], 0)
}

func (r *reader) value(y *yaml.Node, depth int) (*Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%s:%d: stands more than %d deep, or in itself", r.file.name, y.Line, maxDepth)
	}
	if y.Kind == yaml.AliasNode {
		return r.value(y.Alias, depth+1)
	}
	n, err := r.node(Null, y.Line, y.Column)
	if err != nil {
		return nil, err
	}
	switch y.Kind {
	case yaml.ScalarNode:
		return n, n.scalar(y)
	case yaml.SequenceNode:
		n.Kind = List
		for _, c := range y.Content {
			item, err := r.value(c, depth+1)
			if err != nil {
				return nil, err
			}
			n.Items = append(n.Items, item)
		}
		return n, nil
	default:
		n.Kind = Map
		return n, r.mapping(n, y, depth)
	}
}

// mapping reads a map. What a merge key ("<<") brings in gives way to the map's
// own keys.
func (r *reader) mapping(n *Node, y *yaml.Node, depth int) error {
	var merged []*Node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k := y.Content[i]
		v, err := r.value(y.Content[i+1], depth+1)
		if err != nil {
			return err
		}
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		switch {
		case k.Kind != yaml.ScalarNode:
			return v.Errorf("a key has to be text")
		case k.Tag == "!!merge" && v.Kind == List:
			merged = append(merged, v.Items...)
		case k.Tag == "!!merge":
			merged = append(merged, v)
		default:
			if err := n.add(k.Value, place{k.Line, k.Column}, v); err != nil {
				return err
			}
		}
	}
	for _, m := range merged {
		if err := m.Want("what << brings in", Map); err != nil {
			return err
		}
		for i, k := range m.Keys {
			if n.Get(k) == nil {
				n.Keys, n.Items, n.keys = append(n.Keys, k), append(n.Items, m.Items[i]), append(n.keys, m.keys[i])
			}
		}
	}
	return nil
}

var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

// scalar reads a scalar by its tag; a date is text, as in JSON.
func (n *Node) scalar(y *yaml.Node) error {
	n.Text = y.Value
	switch y.ShortTag() {
	case "!!null":
		n.Kind, n.Text = Null, ""
	case "!!bool":
		n.Kind, n.Text = Bool, strings.ToLower(y.Value)
	case "!!int", "!!float":
		n.Kind = Number
		if decimal.MatchString(n.Text) {
			return nil
		}
		text := strings.ReplaceAll(n.Text, "_", "")
		if i, ok := new(big.Int).SetString(text, 0); ok { // hexadecimal, octal
			n.Text = i.String()
			return nil
		}
		f := strings.TrimPrefix(text, "+")
		if strings.HasPrefix(f, ".") {
			f = "0" + f
		}
		f = strings.Replace(f, "-.", "-0.", 1)
		if f = strings.TrimSuffix(f, "."); !decimal.MatchString(f) {
			return n.Errorf("%q isn't a number that JSON has", y.Value)
		}
		n.Text = f
	default:
		n.Kind = String
	}
	return nil
}

// json reads JSON, with the place of each value.
func (r *reader) json(text []byte) (*Node, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	p := jsonReader{reader: r, text: text, d: d, line: 1}
	n, err := p.value(0)
	if err == nil {
		line, column := p.place()
		if _, err = d.Token(); err == io.EOF {
			return n, nil
		}
		return nil, &Error{r.file.name, line, column, "something follows the value"}
	}
	var placed *Error
	if errors.As(err, &placed) {
		return nil, err
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	line, column := p.place()
	return nil, &Error{r.file.name, line, column, err.Error()}
}

type jsonReader struct {
	*reader
	text       []byte
	d          *json.Decoder
	at         int // up to where lines are counted
	line, head int // the line there, and where it starts
}

// place is the place of what comes next.
func (p *jsonReader) place() (line, column int) {
	to := int(p.d.InputOffset())
	for to < len(p.text) && strings.IndexByte(" \t\r\n,:", p.text[to]) >= 0 {
		to++
	}
	for ; p.at < to; p.at++ {
		if p.text[p.at] == '\n' {
			p.line, p.head = p.line+1, p.at+1
		}
	}
	return p.line, to - p.head + 1
}

func (p *jsonReader) value(depth int) (*Node, error) {
	n, err := p.node(Null, 0, 0)
	if err != nil {
		return nil, err
	}
	n.line, n.column = p.place()
	token, err := p.d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case bool:
		n.Kind, n.Text = Bool, fmt.Sprint(t)
	case json.Number:
		n.Kind, n.Text = Number, t.String()
	case string:
		n.Kind, n.Text = String, t
	case json.Delim:
		if depth > maxDepth {
			return nil, n.Errorf("stands more than %d deep", maxDepth)
		}
		n.Kind = List
		if t == '{' {
			n.Kind = Map
		}
		return n, p.fill(n, depth)
	}
	return n, nil
}

// fill reads a list or a map up to its end.
func (p *jsonReader) fill(n *Node, depth int) error {
	for p.d.More() {
		key, at := "", place{}
		if n.Kind == Map {
			at.line, at.column = p.place()
			token, err := p.d.Token()
			if err != nil {
				return err
			}
			key = token.(string) // encoding/json gives no other
		}
		v, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		if n.Kind == List {
			n.Items = append(n.Items, v)
		} else if err := n.add(key, at, v); err != nil {
			return err
		}
	}
	_, err := p.d.Token()
	return err
}
