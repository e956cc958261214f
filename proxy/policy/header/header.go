// Package header compiles the header edits of policies: what to set, add and
// remove, with templates in the values. It isn't a policy itself; request and
// response are. It starts no goroutine.
package header

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/template"
)

// maxValue bounds a value after expansion; a longer one isn't sent.
const maxValue = 8192

// Config says how a head is to be changed.
type Config struct {
	Set, Add map[string]string
	Remove   []string
}

// Edits are compiled edits. They never change. A value that comes out empty, or
// with a character that no field value has, isn't sent; that of Set still takes
// the place of what was there.
type Edits struct {
	remove   []string
	set, add []field
	host     *field // set on a request: its authority
	params   []string
}

type field struct {
	name     string
	id       exchange.ID
	constant string
	template *template.Template // nil: constant
}

// Compile checks and compiles edits of requests, or of responses. Its error
// joins everything that is wrong.
func Compile(c Config, request bool) (*Edits, error) {
	e := &Edits{}
	var errs error
	fail := func(argument, name string, err error) {
		errs = errors.Join(errs, fmt.Errorf("%s: header %q: %w", argument, name, err))
	}
	seen := map[string]string{}
	for _, name := range c.Remove {
		if err := e.check(seen, "remove", name); err != nil {
			fail("remove", name, err)
			continue
		}
		if exchange.Lookup(name) == exchange.Host {
			fail("remove", name, errors.New("a request can't go without it"))
			continue
		}
		e.remove = append(e.remove, name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Set)) {
		f, err := compileField(name, c.Set[name])
		if err == nil {
			err = e.check(seen, "set", name)
		}
		switch {
		case err != nil:
			fail("set", name, err)
		case f.id == exchange.Host && !request:
			fail("set", name, errors.New("isn't a field of responses"))
		case f.id == exchange.Host:
			e.host = &f
		default:
			e.set = append(e.set, f)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Add)) {
		f, err := compileField(name, c.Add[name])
		if err == nil {
			err = e.check(seen, "add", name)
		}
		switch {
		case err != nil:
			fail("add", name, err)
		case f.id == exchange.Host:
			fail("add", name, errors.New("there is one only; set it"))
		case request && f.template != nil && f.template.Identifies():
			fail("add", name, errors.New("says who is calling, and a client could send the field, too; set it"))
		default:
			e.add = append(e.add, f)
		}
	}
	if errs != nil {
		return nil, errs
	}
	e.collectParams()
	return e, nil
}

// check refuses names that can't be edited, and those that stand where they
// contradict each other. Adding to what is set or removed is fine.
func (e *Edits) check(seen map[string]string, argument, name string) error {
	if !Name(name) {
		return errors.New("isn't the name of a header field")
	}
	if id := exchange.Lookup(name); id.HopByHop() || id == exchange.ContentLength {
		return errors.New("belongs to the connection or the message's framing; only the gateway sets it")
	}
	key := argument + strings.ToLower(name)
	if argument != "add" {
		key = strings.ToLower(name)
	}
	if before, ok := seen[key]; ok {
		return fmt.Errorf("stands in %s already", before)
	}
	seen[key] = argument
	return nil
}

func compileField(name, value string) (field, error) {
	f := field{name: name, id: exchange.Lookup(name)}
	if !Value(value) {
		return f, errors.New("the value has a control character")
	}
	if strings.Trim(value, " \t") != value {
		return f, errors.New("the value starts or ends with a space")
	}
	if len(value) > maxValue {
		return f, fmt.Errorf("the value has %d bytes; at most %d are allowed", len(value), maxValue)
	}
	t, err := template.Compile(value)
	if err != nil {
		return f, err
	}
	if text, ok := t.Constant(); ok {
		f.constant = text
	} else {
		f.template = t
	}
	return f, nil
}

func (e *Edits) collectParams() {
	add := func(f *field) {
		if f.template == nil {
			return
		}
		for _, name := range f.template.Params() {
			if !slices.Contains(e.params, name) {
				e.params = append(e.params, name)
			}
		}
	}
	for i := range e.set {
		add(&e.set[i])
	}
	for i := range e.add {
		add(&e.add[i])
	}
	if e.host != nil {
		add(e.host)
	}
}

// Params returns the path parameters that the values read.
func (e *Edits) Params() []string { return e.params }

// Marks returns the fields that are set and say who is calling: by what is in
// them or, with all, by being set at all. Fields that every client sends, Accept
// and its like, don't.
func (e *Edits) Marks(all bool) []string {
	var names []string
	for i := range e.set {
		f := &e.set[i]
		if f.template != nil && f.template.Identifies() || all && f.id == exchange.Other {
			names = append(names, f.name)
		}
	}
	return names
}

// Host returns what the request's Host is set to; "": it isn't.
func (e *Edits) Host(x *exchange.Exchange) string {
	if e.host == nil {
		return ""
	}
	return e.host.value(x)
}

// Apply puts the edits into to: x.RequestEdits or x.ResponseEdits.
func (e *Edits) Apply(x *exchange.Exchange, to *exchange.Edits) {
	for _, name := range e.remove {
		to.Remove(name)
	}
	for i := range e.set {
		if v := e.set[i].value(x); v != "" {
			to.Set(e.set[i].name, v)
		} else {
			to.Remove(e.set[i].name)
		}
	}
	for i := range e.add {
		if v := e.add[i].value(x); v != "" {
			to.Add(e.add[i].name, v)
		}
	}
}

// Hide drops the fields of h that a backend could mistake for one that is set
// or removed here: X_Tenant and x.tenant for X-Tenant, which many turn into
// the same variable.
func (e *Edits) Hide(h *exchange.Head) {
	for i := range h.Len() {
		if h.ID(i) != exchange.Other {
			continue // a known name has one spelling
		}
		name, _ := h.Field(i)
		if strings.IndexByte(name, '_') < 0 && strings.IndexByte(name, '.') < 0 {
			continue
		}
		if e.mistakable(name) {
			h.Drop(i)
		}
	}
}

func (e *Edits) mistakable(name string) bool {
	for _, n := range e.remove {
		if looksLike(name, n) {
			return true
		}
	}
	for i := range e.set {
		if looksLike(name, e.set[i].name) {
			return true
		}
	}
	return false
}

// looksLike compares names as CGI does, where all but letters and digits are
// the same.
func looksLike(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c | 0x20
	case c == '_' || c == '.':
		return '-'
	default:
		return c
	}
}

// value expands f for x; "": nothing may be sent.
func (f *field) value(x *exchange.Exchange) string {
	if f.template == nil {
		return f.constant
	}
	var buf [256]byte
	b := f.template.Append(buf[:0], x)
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	if len(b) > maxValue {
		return ""
	}
	for _, c := range b {
		if !valueByte(c) {
			return ""
		}
	}
	return x.Keep(b)
}

func valueByte(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }

// Value reports whether s can be a field's value (RFC 9110, 5.5).
func Value(s string) bool {
	for i := range len(s) {
		if !valueByte(s[i]) {
			return false
		}
	}
	return true
}

// Name reports whether s can be a field's name (RFC 9110, 5.1).
func Name(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// String says what the edits do, for sidegate explain.
func (e *Edits) String() string {
	var parts []string
	list := func(verb string, names []string) {
		if len(names) > 0 {
			parts = append(parts, verb+" "+strings.Join(names, ", "))
		}
	}
	var set, add []string
	if e.host != nil {
		set = append(set, e.host.name)
	}
	for i := range e.set {
		set = append(set, e.set[i].name)
	}
	for i := range e.add {
		add = append(add, e.add[i].name)
	}
	list("remove", e.remove)
	list("set", set)
	list("add", add)
	return strings.Join(parts, "; ")
}
