package app

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// documents are the consumers that stand in no file: texts in the configuration
// language, by where they stand.
type documents struct {
	texts    [2]map[string]string // by origin: of Consul by key, of the disk by name
	parsed   map[document]parsed
	files    *config.File // in force, and its directory
	known    *consumer.Directory
	places   map[*consumer.Config]document // of those in use
	problems []admin.Problem
	used     int
	live     bool      // Consul has said what there is
	stored   time.Time // else when it had
}

// document is one text.
type document struct {
	from consumer.Origin
	key  string
}

// String says where it is.
func (d document) String() string {
	if d.from == consumer.FromConsul {
		return "KV " + d.key
	}
	return "consumer " + d.key + " of state_dir"
}

// parsed is a text that has been read.
type parsed struct {
	text string
	list []*consumer.Config
	bad  []string
}

// set takes over one text; "" is none.
func (d *documents) set(from consumer.Origin, key, text string) {
	next := maps.Clone(d.texts[from])
	if next == nil {
		next = map[string]string{}
	}
	next[key] = text
	if text == "" {
		delete(next, key)
	}
	d.texts[from] = next
}

// size is how much Consul has of consumers, in bytes.
func (s *keyStore) size() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, text := range s.documents.texts[consumer.FromConsul] {
		n += len(key) + len(text)
	}
	return n
}

// all are the documents, those of Consul first, each by key.
func (d *documents) all() []document {
	var list []document
	for from, texts := range d.texts {
		for _, key := range slices.Sorted(maps.Keys(texts)) {
			list = append(list, document{consumer.Origin(from), key})
		}
	}
	return list
}

// read parses a text, or remembers what came out.
func (d *documents) read(at document, text string, opt config.Options) parsed {
	if p, ok := d.parsed[at]; ok && p.text == text {
		return p
	}
	p := parsed{text: text}
	var found *config.Diagnostics
	p.list, found = config.ParseConsumers(at.key, []byte(text), opt)
	for _, f := range found.List() {
		p.bad = append(p.bad, f.Text)
	}
	return p
}

// candidates are the consumers of all texts, with where each is from.
func (d *documents) candidates(opt config.Options) (list []*consumer.Config, at []document, problems []admin.Problem) {
	next := map[document]parsed{}
	issuers := d.files.Issuers()
	for _, where := range d.all() {
		p := d.read(where, d.texts[where.from][where.key], opt)
		next[where] = p
		for _, text := range p.bad {
			problems = append(problems, admin.Problem{Where: where.String(), Text: text})
		}
		for _, c := range p.list {
			c, err := withIssuer(c, issuers)
			if err != nil {
				problems = append(problems, admin.Problem{Where: where.String(), Text: err.Error()})
				continue
			}
			list, at = append(list, c), append(at, where)
		}
	}
	d.parsed = next
	return list, at, problems
}

// withIssuer is a consumer whose subjects are somebody: those of the one issuer
// whose tokens are asked for, where that isn't said.
func withIssuer(c *consumer.Config, issuers []string) (*consumer.Config, error) {
	if !slices.ContainsFunc(c.JWT, func(j *consumer.JWTConfig) bool { return j.Issuer == "" }) || len(issuers) == 0 {
		return c, nil
	}
	if len(issuers) > 1 {
		return nil, fmt.Errorf("consumer %q: jwt: tokens of several issuers are asked for, so that a subject alone is nobody: add issuer", c.Name)
	}
	out := *c
	out.JWT = nil
	for _, j := range c.JWT {
		out.JWT = append(out.JWT, &consumer.JWTConfig{Subject: j.Subject, Issuer: cmp.Or(j.Issuer, issuers[0])})
	}
	return &out, nil
}

// setFiles puts a configuration's consumers in force, and beside them those of
// the documents that fit. sets are the policies that consumers may use.
func (s *keyStore) setFiles(file *config.File, known *consumer.Directory, sets []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.documents.files, s.documents.known, s.sets = file, known, sets
	if file.Consul == nil || file.Consul.KV == "" { // what it said holds no more than it would after a restart
		s.documents.texts[consumer.FromConsul] = nil
		s.documents.live, s.documents.stored = false, time.Time{}
		s.live, s.stored = false, time.Time{}
		s.update(nil)
	}
	s.combine()
}

// setDocuments takes over what Consul has of consumers, or had at a time: what it
// says now, without a time, goes before that.
func (s *keyStore) setDocuments(texts map[string][]byte, stored time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !stored.IsZero() && s.documents.live {
		return
	}
	s.documents.live, s.documents.stored = stored.IsZero(), stored
	next := make(map[string]string, len(texts))
	for key, text := range texts {
		next[key] = string(text)
	}
	if maps.Equal(next, s.documents.texts[consumer.FromConsul]) {
		return
	}
	s.documents.texts[consumer.FromConsul] = next
	s.combine()
}

// combine makes the directory of the consumers beside the files. What is wrong
// with one of them is told, and harms no other. s.mu is held.
func (s *keyStore) combine() {
	d := &s.documents
	if d.known == nil {
		return // the start will come to it
	}
	before := d.problems
	list, at, problems := d.candidates(s.options)
	more, left := d.known.Extend(list)
	d.places = map[*consumer.Config]document{}
	for i, c := range list {
		if err := left[i]; err != nil {
			problems = append(problems, admin.Problem{Where: at[i].String(), Text: err.Error()})
			continue
		}
		d.places[c] = at[i]
	}
	d.problems, d.used = sorted(problems), len(d.places)
	for _, p := range d.problems {
		if !slices.Contains(before, p) {
			s.log.WithFields(logrus.Fields{"where": p.Where}).Warn(p.Text)
		}
	}
	s.ring.SetFiles(d.known, more)
}

func sorted(list []admin.Problem) []admin.Problem {
	slices.SortFunc(list, func(a, b admin.Problem) int {
		return cmp.Or(strings.Compare(a.Where, b.Where), strings.Compare(a.Text, b.Text))
	})
	return list
}
