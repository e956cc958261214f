package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// Diagnostic is one thing wrong with a configuration.
type Diagnostic struct {
	Warning bool      // it works all the same
	Text    string    // what is wrong
	Advice  string    // what to do; may be empty
	Range   hcl.Range // where; without a Filename: nowhere in a file
	Also    hcl.Range // the other place that it is about; without a Filename: none
}

// Place is file:line:column, or empty.
func (d *Diagnostic) Place() string { return placeText(d.Range) }

// String is the diagnostic in one line, as a log shows it.
func (d *Diagnostic) String() string {
	var b strings.Builder
	if p := d.Place(); p != "" {
		b.WriteString(p + ": ")
	}
	b.WriteString(d.Text)
	if d.Also.Filename != "" {
		b.WriteString(" (see also " + placeText(d.Also) + ")")
	}
	if d.Advice != "" {
		b.WriteString("; " + d.Advice)
	}
	return b.String()
}

func placeText(r hcl.Range) string {
	if r.Filename == "" {
		return ""
	}
	if r.Start.Line == 0 {
		return r.Filename
	}
	return fmt.Sprintf("%s:%d:%d", r.Filename, r.Start.Line, r.Start.Column)
}

// Diagnostics are all that is wrong with a configuration. Its zero value is
// ready.
type Diagnostics struct {
	list    []Diagnostic
	source  map[string][]byte
	secrets []hcl.Range // places whose text isn't shown
	seen    map[Diagnostic]bool
	failed  int // how many are errors
	more    int // how many aren't in list
	sorted  bool
}

// maxFindings bounds what is kept: a text may be wrong in every byte.
const maxFindings = 1000

// Add appends a finding, also one of a later stage than Load.
func (d *Diagnostics) Add(f Diagnostic) {
	if d.seen[f] {
		return
	}
	if len(d.list) >= maxFindings {
		d.more++
		if !f.Warning {
			d.failed++
		}
		return
	}
	if d.seen == nil {
		d.seen = map[Diagnostic]bool{}
	}
	d.seen[f] = true
	if !f.Warning {
		d.failed++
	}
	d.list = append(d.list, f)
	d.sorted = false
}

// Errorf adds an error.
func (d *Diagnostics) Errorf(at hcl.Range, advice, format string, args ...any) {
	d.Add(Diagnostic{Text: fmt.Sprintf(format, args...), Advice: advice, Range: at})
}

func (d *Diagnostics) warnf(at hcl.Range, advice, format string, args ...any) {
	d.Add(Diagnostic{Warning: true, Text: fmt.Sprintf(format, args...), Advice: advice, Range: at})
}

// addHCL takes over what the HCL library found.
func (d *Diagnostics) addHCL(found hcl.Diagnostics) {
	for _, h := range found {
		f := Diagnostic{Warning: h.Severity == hcl.DiagWarning, Text: sentence(h.Summary), Advice: h.Detail}
		if h.Subject != nil {
			f.Range = *h.Subject
			// "at name:3,5-9" there is "at name:3:5" here.
			if before, after, ok := strings.Cut(h.Detail, " at "+f.Range.Filename+":"); ok {
				pos, rest, _ := strings.Cut(after, "-")
				f.Advice = before + " at " + f.Range.Filename + ":" + strings.Replace(pos, ",", ":", 1) + strings.TrimLeft(rest, "0123456789")
			}
		}
		d.Add(f)
	}
}

// sentence lowers the first letter, in the style of our own texts.
func sentence(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// List is all findings, by place.
func (d *Diagnostics) List() []Diagnostic {
	d.sort()
	return d.list
}

func (d *Diagnostics) sort() {
	if d.sorted {
		return
	}
	slices.SortStableFunc(d.list, func(a, b Diagnostic) int {
		return cmp.Or(
			strings.Compare(a.Range.Filename, b.Range.Filename),
			cmp.Compare(a.Range.Start.Byte, b.Range.Start.Byte),
		)
	})
	d.sorted = true
}

// HasErrors reports whether there is more than warnings.
func (d *Diagnostics) HasErrors() bool { return d.failed > 0 }

// Err is all errors in one, a line each; nil when there are only warnings.
func (d *Diagnostics) Err() error {
	var all []error
	for _, f := range d.List() {
		if !f.Warning {
			all = append(all, errors.New(f.String()))
		}
	}
	return errors.Join(all...)
}

// String is what Write writes, without colour.
func (d *Diagnostics) String() string {
	var b strings.Builder
	_ = d.Write(&b, false) // a Builder doesn't fail
	return b.String()
}

// Write shows each finding with its source line, the place underlined.
func (d *Diagnostics) Write(w io.Writer, colour bool) error {
	d.sort()
	paint := func(code, s string) string {
		if !colour {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	var b strings.Builder
	for i := range d.list {
		f := &d.list[i]
		if i > 0 {
			b.WriteByte('\n')
		}
		if p := f.Place(); p != "" {
			b.WriteString(paint("1", p+":") + " ")
		}
		word, code := "error:", "1;31"
		if f.Warning {
			word, code = "warning:", "1;33"
		}
		b.WriteString(paint(code, word) + " " + f.Text + "\n")
		d.snippet(&b, f.Range, func(s string) string { return paint(code, s) })
		if f.Also.Filename != "" {
			end := ":\n"
			if _, ok := d.source[f.Also.Filename]; !ok {
				end = "\n"
			}
			b.WriteString("  see also " + placeText(f.Also) + end)
			d.snippet(&b, f.Also, func(s string) string { return paint("1", s) })
		}
		if f.Advice != "" {
			b.WriteString("  " + strings.ReplaceAll(f.Advice, "\n", "\n  ") + "\n")
		}
	}
	if d.more > 0 {
		fmt.Fprintf(&b, "\nand %d more\n", d.more)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// maxShown bounds how much of a source line is shown, for files of one line.
const maxShown = 160

// snippet writes the line of r with the place underlined.
func (d *Diagnostics) snippet(b *strings.Builder, r hcl.Range, paint func(string) string) {
	src, ok := d.source[r.Filename]
	if !ok || r.Start.Line == 0 || r.Start.Byte > len(src) {
		return
	}
	begin := bytes.LastIndexByte(src[:r.Start.Byte], '\n') + 1
	end := len(src)
	if n := bytes.IndexByte(src[r.Start.Byte:], '\n'); n >= 0 {
		end = r.Start.Byte + n
	}
	from, to := r.Start.Byte, min(max(r.End.Byte, r.Start.Byte), end)
	line := d.masked(r.Filename, src[begin:end], begin)
	if len(line) > maxShown {
		cut := min(max(0, from-begin-maxShown/2), len(line)-maxShown)
		line = line[cut : cut+maxShown]
		begin += cut
		to = min(to, begin+maxShown)
	}
	line = bytes.TrimRight(bytes.ToValidUTF8(line, []byte("?")), "\r")
	before := line[:min(from-begin, len(line))]
	marked := line[len(before):min(max(to-begin, len(before)), len(line))]
	number := fmt.Sprintf("%5d", r.Start.Line)
	fmt.Fprintf(b, "%s | %s\n%s | %s%s\n", number, printable(line), strings.Repeat(" ", len(number)),
		blank(before), paint(strings.Repeat("^", max(1, utf8.RuneCount(marked)))))
}

// masked is a line without the secrets in it.
func (d *Diagnostics) masked(file string, line []byte, begin int) []byte {
	out := slices.Clone(line)
	for _, s := range d.secrets {
		if s.Filename != file {
			continue
		}
		for i := max(s.Start.Byte, begin); i < min(s.End.Byte, begin+len(line)); i++ {
			out[i-begin] = '*'
		}
	}
	return out
}

// blank is as wide as b, and keeps its tabs.
func blank(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string(b))
}

// printable keeps control characters of a file away from a terminal.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r == 0x7f) {
			return '?'
		}
		return r
	}, string(b))
}
