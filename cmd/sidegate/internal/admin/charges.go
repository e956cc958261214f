package admin

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
)

// Charges is what was charged, and what the billing services are still to be told.
type Charges interface {
	Charges(q charge.Query) charge.Page
	Charge(id string) (charge.Entry, error)
	ChargeTotals(since, until, consumer string) (charge.Totals, error)
	ChargeStatus() charge.Status
	RetryCharges(id string) (int, error) // "": all dead letters
	ReconcileCharges(since, until, service string) (charge.Comparison, error)
}

// ChargesStatus is that at a glance.
type ChargesStatus struct {
	Pending int      `json:"pending"`
	Dead    int      `json:"dead"`
	Failing string   `json:"failing,omitempty"` // why charges can't be written to the disk
	Down    []string `json:"down,omitempty"`    // billing services that don't answer
}

func (s *Server) chargeRoutes(m *http.ServeMux, changes bool) {
	m.HandleFunc("GET /api/charges", s.charges)
	m.HandleFunc("GET /api/charges/{id}", func(w http.ResponseWriter, r *http.Request) {
		e, err := s.Gateway.Charge(r.PathValue("id"))
		s.charged(w, e, err)
	})
	m.HandleFunc("GET /api/charges/totals", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		t, err := s.Gateway.ChargeTotals(q.Get("since"), q.Get("until"), q.Get("consumer"))
		s.charged(w, t, err)
	})
	m.HandleFunc("GET /api/charges/status", func(w http.ResponseWriter, _ *http.Request) { s.json(w, http.StatusOK, s.Gateway.ChargeStatus()) })
	m.HandleFunc("GET /api/charges/reconcile", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		c, err := s.Gateway.ReconcileCharges(q.Get("since"), q.Get("until"), q.Get("service"))
		s.charged(w, c, err)
	})
	if changes {
		m.HandleFunc("POST /api/charges/retry", s.retryCharges)
	}
}

// charged answers with v, or with what the caller got wrong.
func (s *Server) charged(w http.ResponseWriter, v any, err error) {
	switch {
	case errors.Is(err, charge.ErrUnknown):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		s.json(w, http.StatusOK, v)
	}
}

// charges lists a page of charges.
func (s *Server) charges(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	q := charge.Query{
		State: v.Get("state"), Consumer: v.Get("consumer"), Meter: v.Get("meter"), Route: v.Get("route"), Service: v.Get("service"), After: v.Get("after"),
	}
	if err := q.Check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if text := v.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("limit: %.20q isn't a number from 1 on", text), http.StatusBadRequest)
			return
		}
		q.Limit = n
	}
	s.json(w, http.StatusOK, s.Gateway.Charges(q))
}

// retryCharges has dead letters told again.
func (s *Server) retryCharges(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("id")
	if id == "" && r.FormValue("all") != "true" {
		http.Error(w, "say which: id, or all=true", http.StatusBadRequest)
		return
	}
	n, err := s.Gateway.RetryCharges(id)
	s.charged(w, map[string]int{"retried": n}, err)
}
