package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// mostInspected bounds how many answers of a URL are shown.
const mostInspected = 1000

// Inspection is what is stored of a URL.
type Inspection struct {
	URL     string   `json:"url"`
	Answers []Stored `json:"answers"`
	More    int      `json:"more,omitempty"` // that aren't shown
	// Why the last answer that wasn't stored wasn't, as far as it is known.
	Refused *Refused `json:"refused,omitempty"`
}

// Refused is why an answer wasn't stored.
type Refused struct {
	Route  string    `json:"route"`
	Status int       `json:"status"`
	Why    string    `json:"why"`
	At     time.Time `json:"at"`
}

// Stored is a stored answer. Nothing in it lets anybody call.
type Stored struct {
	Route   string `json:"route"`
	Service string `json:"service,omitempty"`
	// For whom it is: everyone, unless something is given.
	Consumer string   `json:"consumer,omitempty"`
	Claims   string   `json:"claims,omitempty"` // of a token: the first digits of a hash over them
	Fields   []string `json:"fields,omitempty"` // that policies add to the request: their names
	// What it is found by beside that.
	Forwarded map[string]string `json:"forwarded,omitempty"` // what trusted proxies say
	Key       map[string]string `json:"key,omitempty"`       // fields that the route's key has
	Vary      map[string]string `json:"vary,omitempty"`      // as they are compared; a field that is missing isn't there

	Status int           `json:"status"`
	Bytes  int64         `json:"bytes"`
	Age    time.Duration `json:"age"`
	// How long it is fresh; negative: for how long it has been stale.
	Fresh                time.Duration `json:"fresh"`
	StaleWhileRevalidate time.Duration `json:"stale_while_revalidate,omitempty"` // how long after that
	StaleIfError         time.Duration `json:"stale_if_error,omitempty"`
	Validate             bool          `json:"validate,omitempty"` // each time (no-cache)
	ETag                 string        `json:"etag,omitempty"`     // as far as it is in memory, as is the next
	LastModified         string        `json:"last_modified,omitempty"`
	Tags                 []string      `json:"tags,omitempty"`
	Memory               int64         `json:"memory"` // bytes that it takes there; 0: it isn't there
	Disk                 int64         `json:"disk"`
	Encodings            []string      `json:"encodings,omitempty"` // in which it is kept beside
}

// Inspect shows what is stored of a URL.
func (s *Store) Inspect(text string) (Inspection, error) {
	if strings.HasSuffix(text, "*") {
		return Inspection{}, errors.New("say one URL, without *")
	}
	p := Purge{URLs: []string{text}}
	sel, err := p.compile()
	if err != nil {
		return Inspection{}, err
	}
	if len(sel.uris) == 0 { // a host alone: its first page
		p.URLs[0] += "/"
		if sel, err = p.compile(); err != nil {
			return Inspection{}, err
		}
	}
	var wanted index[bool]
	wanted.add(sel, func(bool) bool { return true })
	out := Inspection{URL: p.URLs[0], Answers: []Stored{}}
	s.purging.walking.Lock() // one look at all answers at a time
	defer s.purging.walking.Unlock()
	now := time.Now()
	encodings := map[uint64][]string{}
	var ids []uint64
	s.all(func(m *meta) action {
		a := newSubject(m.uri, "", "")
		found := false
		wanted.visit(&a, func(bool) { found = true })
		switch {
		case !found:
		case m.attached != "":
			encodings[m.id] = append(encodings[m.id], strings.Clone(m.attached))
		case len(out.Answers) == mostInspected:
			out.More++
		default:
			out.Answers, ids = append(out.Answers, m.shown(now)), append(ids, m.id)
		}
		return keepIt
	})
	for i, id := range ids {
		out.Answers[i].Encodings = encodings[id]
		slices.Sort(encodings[id])
	}
	for _, uri := range sel.uris {
		if r := s.reason(strings.TrimSuffix(uri, noQuery)); r != nil && (out.Refused == nil || r.at.After(out.Refused.At)) {
			out.Refused = &Refused{r.route, r.status, r.why, r.at}
		}
	}
	return out, nil
}

// shown is what an operator sees of an answer; nothing of it is a view.
func (m *meta) shown(now time.Time) Stored {
	age := max(0, now.Sub(m.born))
	v := Stored{
		Route: strings.Clone(m.route), Service: strings.Clone(m.service), Status: m.status, Bytes: m.size, Age: age, Fresh: m.shelf.Lifetime - age,
		StaleWhileRevalidate: m.shelf.WhileRevalidate, StaleIfError: m.shelf.IfError, Validate: m.shelf.NoCache, Memory: m.memory, Disk: m.disk,
	}
	if head := m.it.head(); len(head) > 0 {
		v.ETag, v.LastModified = strings.Clone(exchange.PackedGet(head, exchange.ETag)), strings.Clone(exchange.PackedGet(head, exchange.LastModified))
	}
	if !m.it.has(hasBody) {
		v.Memory = 0
	}
	if m.shelf.Must {
		v.StaleWhileRevalidate, v.StaleIfError = 0, 0
	}
	if m.tags != "" {
		v.Tags = strings.Split(strings.Clone(m.tags), tagSeparator)
	}
	v.Key = fieldsOf(fieldsOfKey(m.uri))
	base, values, ok := m.parts()
	if ok {
		v.readBase(base)
		v.Vary = fieldsOf(values)
	}
	return v
}

// fieldsOfKey are the fields that a URI has in what its answers are found by.
func fieldsOfKey(uri string) string {
	return strings.TrimPrefix(uri[len(plainURI(uri)):], noQuery)
}

// parts are what bases and values made of the request.
func (m *meta) parts() (base, values string, ok bool) {
	rest := string(m.key[len(m.uri):])
	if len(rest) < 2+4 {
		return "", "", false
	}
	rest = rest[2:]
	n := int(binary.BigEndian.Uint32([]byte(rest[:4])))
	if rest = rest[4:]; n > len(rest) {
		return "", "", false
	}
	return rest[:n], rest[n:], true
}

// readBase reads what bases makes: for whom an answer is.
func (v *Stored) readBase(base string) {
	_, rest, _ := strings.Cut(base, "\x00") // route
	_, rest, _ = strings.Cut(rest, "\x00")  // service
	forwarded, rest, _ := strings.Cut(rest, "\x00")
	for pair := range strings.SplitSeq(strings.TrimSuffix(forwarded, "\x01"), "\x01") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			if v.Forwarded == nil {
				v.Forwarded = map[string]string{}
			}
			v.Forwarded[name] = value
		}
	}
	if name, ok := strings.CutPrefix(rest, "c"); ok {
		v.Consumer, rest, _ = strings.Cut(name, "\x00")
	}
	const sum = 32
	if len(rest) > sum && rest[0] == 't' {
		v.Claims, rest = hex.EncodeToString([]byte(rest[1:5])), rest[1+sum:]
	}
	for field := range strings.SplitSeq(rest, "\x00") {
		if name, _, ok := strings.Cut(strings.TrimPrefix(field, "e"), ":"); ok {
			v.Fields = append(v.Fields, name)
		}
	}
}

// secretive are parts of the names of fields whose values open something.
var secretive = []string{"auth", "cookie", "key", "token", "secret", "password", "session"}

// fieldsOf reads what values makes. What may open something, it hides.
func fieldsOf(text string) map[string]string {
	if text == "" {
		return nil
	}
	fields := map[string]string{}
	for field := range strings.SplitSeq(strings.TrimPrefix(text, "\x00"), "\x00") {
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			continue // the request has no such field
		}
		switch {
		case slices.ContainsFunc(secretive, func(part string) bool { return strings.Contains(name, part) }):
			value = "…"
		case exchange.Lookup(name) == exchange.AcceptEncoding:
			value = strings.TrimSuffix(value, ",")
		}
		fields[name] = value
	}
	return fields
}

// Whom says for whom an answer is.
func (v *Stored) Whom() string {
	var list []string
	if v.Consumer != "" {
		list = append(list, "consumer "+v.Consumer)
	}
	if v.Claims != "" {
		list = append(list, "tokens whose claims hash to "+v.Claims+"…")
	}
	if len(v.Fields) > 0 {
		list = append(list, "requests to which policies add the same "+strings.Join(v.Fields, ", "))
	}
	if len(list) == 0 {
		return "everyone"
	}
	return strings.Join(list, ", ")
}
