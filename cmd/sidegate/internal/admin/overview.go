package admin

import (
	"net/http"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
)

// Overview is Status without its long lists, which have endpoints of their own:
// what can be asked for every few seconds whatever the gateway's size.
type Overview struct {
	Status
	Now      time.Time   `json:"now"`
	Services Tally       `json:"services"` // in the place of the list
	Certs    CertTally   `json:"certificates"`
	Problems int         `json:"problem_count"` // of which Status has a hundred at most
	Bans     int         `json:"bans"`
	InFlight int         `json:"in_flight"`
	Window   float64     `json:"window"` // seconds that Traffic.Recent is about
	Traffic  traffic.Row `json:"traffic"`
}

// Tally counts services and their instances.
type Tally struct {
	Services  int      `json:"services"`
	Instances int      `json:"instances"`
	Down      int      `json:"down"`    // instances that get nothing
	Ejected   int      `json:"ejected"` // of these, for their failures
	Empty     int      `json:"empty"`   // services without an instance that gets requests
	Worst     []string `json:"worst"`   // services with instances that are down, ten at most
}

// CertTally counts certificates.
type CertTally struct {
	All    int       `json:"all"`
	Failed int       `json:"failed"` // whose last try failed
	Soon   int       `json:"soon"`   // that end within a week
	Next   time.Time `json:"next,omitzero"`
}

// LimitsStatus is what limits and quotas refused since the start.
type LimitsStatus struct {
	Rates  []LimitCount `json:"rates"`
	Quotas []LimitCount `json:"quotas"`
}

// LimitCount is one of them.
type LimitCount struct {
	Route   string `json:"route"`
	Name    string `json:"name"`
	DryRun  bool   `json:"dry_run,omitempty"`
	Refused uint64 `json:"refused"`
	Warned  uint64 `json:"warned,omitempty"` // clients that had used 80 %
	Errors  uint64 `json:"errors,omitempty"` // expressions without a value
}

// dashboard adds the page and what is there for it.
func (s *Server) dashboard(m *http.ServeMux) {
	g := s.Gateway
	m.HandleFunc("GET /{$}", s.page)
	m.HandleFunc("GET "+assetsPath, s.page)
	m.HandleFunc("GET /api/session", s.session)
	if s.closed {
		m.HandleFunc("POST /api/login", s.login)
		m.HandleFunc("POST /api/logout", s.logout)
	}
	m.HandleFunc("GET /api/overview", func(w http.ResponseWriter, _ *http.Request) { s.json(w, 200, g.Overview()) })
	m.HandleFunc("GET /api/limits", func(w http.ResponseWriter, _ *http.Request) { s.json(w, 200, g.Limits()) })
	m.HandleFunc("GET /api/traffic", s.traffic)
	m.HandleFunc("GET /api/history", s.answer(s.history))
	m.HandleFunc("GET /api/tail", s.tail)
}
