package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// Reference writes the reference of the language, in Markdown: all blocks and
// arguments with type, default, bounds and what doc says of a field (of a
// type, with an empty field). doc has the doc comments of the sources, which a
// binary hasn't: the test that keeps packaging/doc/reference.md current reads
// them.
func Reference(kinds []policy.Kind, doc func(t reflect.Type, field string) string) []byte {
	w := &reference{doc: doc}
	for i := range kinds {
		w.kinds = append(w.kinds, &kinds[i])
	}
	w.section(2, "The top level", reflect.TypeFor[File]())
	if len(w.kinds) > 0 {
		fmt.Fprintf(&w.out, "## Policies\n\nThese blocks stand in `route` and in `policy` blocks. They run in this order on a request, and in the reverse order on a response, wherever they are written.\n\n")
		for _, k := range w.kinds {
			title := k.Name
			if k.Label != "" {
				title += fmt.Sprintf(" %q", k.Label)
			}
			w.section(3, title, structOf(reflect.TypeOf(k.Config())))
		}
	}
	return w.out.Bytes()
}

type reference struct {
	out   bytes.Buffer
	doc   func(reflect.Type, string) string
	kinds []*policy.Kind
}

// section writes a block and, after it, the blocks in it.
func (w *reference) section(level int, title string, t reflect.Type) {
	s := newSchema(t, w.kinds)
	head := title
	if s.label != nil {
		head += " \"" + strings.ToUpper(s.label.name) + "\""
	}
	fmt.Fprintf(&w.out, "%s %s\n\n", strings.Repeat("#", min(level, 5)), head)
	if s.label != nil && len(s.label.enum) > 0 {
		fmt.Fprintf(&w.out, "%s is %s.\n\n", strings.ToUpper(s.label.name), code(s.label.enum))
	}
	if arguments := w.list(s, false); arguments != "" {
		w.out.WriteString("| argument | type | default | |\n|---|---|---|---|\n" + arguments + "\n")
	}
	if blocks := w.list(s, true); blocks != "" {
		w.out.WriteString("| block | | |\n|---|---|---|\n" + blocks + "\n")
	}
	if s.policies != nil && len(w.kinds) > 0 {
		fmt.Fprintf(&w.out, "Also all [policies](#policies): %s.\n\n", code(s.policyNames()))
	}
	if len(s.later) > 0 {
		fmt.Fprintf(&w.out, "Not available yet: %s.\n\n", code(s.later))
	}
	for _, f := range s.fields {
		if f.block {
			name := f.name
			if level > 2 {
				name = strings.TrimSuffix(title, " ") + " › " + name
			}
			w.section(level+1, name, structOf(f.typ))
		}
	}
}

// list is the rows of the arguments, or of the blocks.
func (w *reference) list(s *schema, blocks bool) string {
	var b strings.Builder
	for _, f := range s.fields {
		if f.block != blocks {
			continue
		}
		text := cell(w.doc(f.owner, f.goName))
		if blocks {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.name, f.often(), text)
			continue
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.name, f.typeCell(), f.defaultCell(), text)
	}
	return b.String()
}

// often says how many of a block there may be, and what holds without it.
func (f *field) often() string {
	switch {
	case f.typ.Kind() == reflect.Slice:
		return "any number"
	case f.typ.Kind() == reflect.Struct || filled(f.typ):
		return "at most one; its defaults hold without it"
	default:
		return "at most one"
	}
}

func (f *field) typeCell() string {
	text := f.kindText()
	if len(f.enum) > 0 {
		text = code(f.enum)
		if f.typ.Kind() == reflect.Slice {
			text = "list of " + text
		}
	}
	switch {
	case f.min != "" && f.max != "":
		text += fmt.Sprintf(", %s to %s", f.min, f.max)
	case f.min != "":
		text += ", at least " + f.min
	case f.max != "":
		text += ", at most " + f.max
	}
	return cell(text)
}

func (f *field) defaultCell() string {
	switch {
	case f.required:
		return "required"
	case !f.hasDefault:
		return ""
	case f.typ.Kind() == reflect.String && f.typ != reflect.TypeFor[secret.String](), f.kindText() == "duration", f.unit != "":
		return "`" + cell(fmt.Sprintf("%q", f.def)) + "`"
	default:
		return "`" + cell(f.def) + "`"
	}
}

func code(words []string) string { return "`" + strings.Join(words, "` `") + "`" }

// cell is text that can stand in a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", "\\|")
}
