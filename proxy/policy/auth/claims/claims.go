// Package claims reads what is said of a client, by a token, by a service that
// knows tokens or by one that logs users in, and says which consumer that is. How
// claims are found right is the matter of the methods below auth. It isn't a
// policy itself and starts no goroutine.
package claims

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

// Config is what blocks have in common that get claims.
type Config struct {
	// The claim that says who it is: jwt { subject = … } of consumers is compared with it. "realm.user" is user in the object realm.
	Subject string `hcl:"subject,attr" default:"sub"`
	// Labels that the consumer gets of claims, beside those of its own: { team = "department" }.
	Labels map[string]string `hcl:"labels,attr"`
	// Who is no consumer of the configuration is one all the same, without a plan, by the name in subject. It must not be the name of another one.
	Unlisted bool `hcl:"unlisted,attr" default:"false"`
}

// maxName bounds the name of a consumer that isn't listed.
const maxName = 256

// Mapping makes a consumer of claims. It never changes.
type Mapping struct {
	issuer, subject string
	labels          map[string]string // label → claim
	unlisted        bool
	consumers       *consumer.Directory
}

// Compile checks and compiles the arguments of a block whose claims are of that
// issuer.
func (c Config) Compile(issuer string, d *consumer.Directory) (*Mapping, error) {
	m := &Mapping{issuer: issuer, subject: c.Subject, labels: c.Labels, unlisted: c.Unlisted, consumers: d}
	if m.subject == "" {
		m.subject = "sub"
	}
	var errs error
	for _, label := range slices.Sorted(maps.Keys(c.Labels)) {
		if label == "" || c.Labels[label] == "" {
			errs = errors.Join(errs, fmt.Errorf("labels: %q = %q names nothing", label, c.Labels[label]))
		}
	}
	return m, errs
}

// Memo keeps the consumer that was made of claims, which it belongs to.
type Memo struct{ last atomic.Pointer[made] }

type made struct {
	by       *Mapping
	of       *exchange.Consumer // the listed one; nil: none
	consumer *exchange.Consumer
}

// Consumer is who the claims say it is, nil for nobody that is known. Who is listed
// is looked up each time: consumers come and go while a token lasts. Making one
// of labels costs only the first time for a memo.
func (m *Mapping) Consumer(c *exchange.Claims, memo *Memo) *exchange.Consumer {
	name := m.name(c)
	known := m.consumers.Subject(m.issuer, name)
	switch {
	case known == nil && (!m.unlisted || !usable(name) || m.consumers.Consumer(name) != nil):
		return nil
	case known != nil && len(m.labels) == 0:
		return known
	}
	if last := memo.last.Load(); last != nil && last.by == m && last.of == known {
		return last.consumer
	}
	who := m.make(c, known, name)
	memo.last.Store(&made{m, known, who})
	return who
}

// name is the claim that says who it is. A list or a number isn't a name: what
// looks like the same text could be something else.
func (m *Mapping) name(c *exchange.Claims) string {
	v, _ := c.Find(m.subject)
	name, _ := v.(string)
	return name
}

// make makes a consumer with labels of a listed one, or of who isn't.
func (m *Mapping) make(c *exchange.Claims, known *exchange.Consumer, name string) *exchange.Consumer {
	who := &exchange.Consumer{Name: name}
	if known != nil {
		*who = *known
	}
	if len(m.labels) == 0 {
		return who
	}
	labels := make(map[string]string, len(m.labels)+len(who.Labels))
	for label, claim := range m.labels {
		if text := c.Text(claim); text != "" {
			labels[label] = text
		}
	}
	maps.Copy(labels, who.Labels) // what the operator says of one consumer counts more
	who.Labels = labels
	return who
}

// usable reports whether a name can stand in logs and header fields as it is.
func usable(name string) bool {
	for i := range len(name) {
		if name[i] < ' ' || name[i] == 0x7f {
			return false
		}
	}
	return name != "" && len(name) <= maxName
}
