package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
)

// CacheStatus is what cache blocks have stored, and how requests were answered.
type CacheStatus struct {
	Items  int             `json:"items"`
	Bytes  uint64          `json:"bytes"`
	Disk   cache.DiskState `json:"disk"`
	Routes []cache.Count   `json:"routes"`
}

// Purged is what became of a purge.
type Purged struct {
	Purged int    `json:"purged"` // answers on this node
	Nodes  string `json:"nodes"`  // who has been told
	Error  string `json:"error,omitempty"`
}

// Who has been told of a purge.
const (
	PurgedEverywhere = "all"     // through Consul
	PurgedHere       = "this"    // there is nobody else, or nobody else was to be told
	PurgeWaits       = "waiting" // Consul doesn't answer; the others are told when it does
)

// maxPurge bounds the body of a purge.
const maxPurge = 1 << 20

// cacheRoutes adds what there is of the cache.
func (s *Server) cacheRoutes(m *http.ServeMux, changes bool) {
	m.HandleFunc("GET /api/cache", func(w http.ResponseWriter, _ *http.Request) { s.json(w, http.StatusOK, s.Gateway.Cache()) })
	m.HandleFunc("GET /api/cache/inspect", s.answer(func(r *http.Request) (any, error) {
		return s.Gateway.Inspect(r.URL.Query().Get("url"))
	}))
	if changes {
		m.HandleFunc("DELETE /api/cache", s.purge(func(r *http.Request) (PurgeRequest, error) { return purgeOf(r.URL.RawQuery) }))
		m.HandleFunc("POST /api/cache/purge", s.purge(readPurge))
	}
}

// PurgeRequest is a purge, and whether other nodes aren't told.
type PurgeRequest struct {
	cache.Purge
	Local bool `json:"local,omitempty"`
}

func (s *Server) purge(read func(*http.Request) (PurgeRequest, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, err := read(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.answer(func(r *http.Request) (any, error) { return s.Gateway.Purge(r.Context(), p.Purge, p.Local) })(w, r)
	}
}

// purgeOf reads a purge from a query: url, host, tag and route, each of them once or
// more, soft and local.
func purgeOf(query string) (p PurgeRequest, err error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return p, err
	}
	for name, values := range q {
		switch name {
		case "url":
			p.URLs = values
		case "host":
			p.Hosts = values
		case "tag":
			p.Tags = values
		case "route":
			p.Routes = values
		case "soft":
			p.Soft, err = yes(name, values)
		case "local":
			p.Local, err = yes(name, values)
		default:
			err = errors.New(name + " is none of url, host, tag, route, soft, local")
		}
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

func yes(name string, values []string) (bool, error) {
	b, err := strconv.ParseBool(values[len(values)-1])
	if err != nil {
		return false, errors.New(name + ": write true or false")
	}
	return b, nil
}

// readPurge reads a purge from JSON.
func readPurge(r *http.Request) (p PurgeRequest, err error) {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxPurge))
	d.DisallowUnknownFields() // one that was misspelled would purge something else
	if err = d.Decode(&p); err == nil {
		if _, end := d.Token(); !errors.Is(end, io.EOF) {
			err = errors.New("something follows it")
		}
	}
	if err != nil {
		return p, errors.New(`the body isn't a purge such as {"tags": ["a"], "soft": true}: ` + err.Error())
	}
	return p, nil
}
