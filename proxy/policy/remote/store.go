package remote

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Store has the services that the configuration in force asks. It outlives
// reloads, and so do their connections.
type Store struct {
	log logrus.FieldLogger

	mu       sync.Mutex // guards services
	services []*Service
}

// NewStore returns a store without services.
func NewStore(log logrus.FieldLogger) *Store { return &Store{log: log} }

// Plan are the services of a configuration that isn't in force yet.
type Plan struct {
	store    *Store
	services []*Service
}

// Plan starts the services of another configuration.
func (s *Store) Plan() *Plan { return &Plan{store: s} }

// Service returns the service of these settings: the one in use, if there is one.
func (p *Plan) Service(set Settings) *Service {
	same := func(o *Service) bool { return o.settings == set }
	if i := slices.IndexFunc(p.services, same); i >= 0 {
		return p.services[i]
	}
	var s *Service
	inUse := p.store.list()
	if i := slices.IndexFunc(inUse, same); i >= 0 {
		s = inUse[i]
	} else {
		s = newService(set, p.store.log)
	}
	p.services = append(p.services, s)
	return s
}

// Commit makes the plan's services those in use. The others' connections close
// when their requests have ended.
func (p *Plan) Commit() {
	s := p.store
	s.mu.Lock()
	old := s.services
	s.services = p.services
	s.mu.Unlock()
	for _, o := range old {
		if !slices.Contains(p.services, o) {
			o.transport.CloseIdleConnections() // what is still in use closes after a minute
		}
	}
}

// Close closes the connections that nobody uses.
func (s *Store) Close() {
	for _, o := range s.list() {
		o.transport.CloseIdleConnections()
	}
}

func (s *Store) list() []*Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.services)
}

// Status is how a service is.
type Status struct {
	URL             string
	Calls, Failures uint64
	InFlight        int
	Error           string    // of the last request
	Failed          time.Time // when one last failed; zero: never
}

// Status lists the services by URL.
func (s *Store) Status() []Status {
	var out []Status
	for _, o := range s.list() {
		st := Status{URL: Shown(o.settings.URL), Calls: o.calls.Load(), Failures: o.failures.Load(), InFlight: len(o.places)}
		if at := o.failedAt.Load(); at != 0 {
			st.Failed = time.Unix(at, 0)
		}
		o.mu.Lock()
		if o.err != nil {
			st.Error = o.err.Error()
		}
		o.mu.Unlock()
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.URL, b.URL) })
	return out
}
