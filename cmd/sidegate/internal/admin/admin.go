// Package admin is the gateway's view of itself over HTTP: status, routes,
// services, explanations, metrics, health and readiness, on the admin address
// and on a unix socket that the CLI uses. It is for operators, never for the
// traffic that the gateway carries.
//
// The address answers only to loopback names or a token, or to a browser's session
// that was opened with it. What changes something goes through the socket, whose file
// only the gateway's user and root may open, and through the address where there is
// a token. Server owns the goroutines of both listeners, from Serve to Stop.
package admin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
	"github.com/sidegate-proxy/sidegate/proxy/tail"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// Gateway is what the admin server shows.
type Gateway interface {
	Status() Status
	Ready() Readiness
	Overview() Overview
	Services() []ServiceRow
	Traffic(by traffic.Dimension, window time.Duration) Traffic
	History(by traffic.Dimension, name string, day bool) *traffic.History
	Tail() *tail.Tap
	Limits() LimitsStatus
	Certificates() []edgetls.CertStatus
	Routes() []RouteStatus
	Explain(Question) (Explanation, error)
	Reload(ctx context.Context) error
	Handover() (Handover, error)
	Config() ([]byte, error) // JSON, secrets hidden
	Bans() []ban.Ban
	AddBan(address string, lasts time.Duration) (ban.Ban, error)
	RemoveBan(address string) (bool, error)
	Cache() CacheStatus
	Purge(ctx context.Context, p cache.Purge, local bool) (Purged, error)
	Inspect(url string) (cache.Inspection, error)
	Quotas(client string) []quota.Use
	SetQuota(quota, client, period string, used int64) (quota.Use, error)
	Consumers
	Charges
	Usage
}

// Deps are what a Server works with.
type Deps struct {
	Log     logrus.FieldLogger
	Gateway Gateway
	Metrics prometheus.Gatherer
}

// Server serves the admin API.
type Server struct {
	Deps
	token  [sha256.Size]byte // of the bearer token; zero: none
	closed bool              // a token is needed
	names  map[string]bool   // Host values that are answered without a token
	tcp    net.Listener
	unix   net.Listener // nil: it couldn't be opened
	path   string       // of unix
	left   atomic.Bool  // the path is another process's
	http   *http.Server
	socket *http.Server
	wg     sync.WaitGroup

	assets   map[string]asset
	sessions sessions
	stopping chan struct{} // closed by Stop: streams end
}

// New returns a server that isn't listening yet.
func New(d Deps) *Server { return &Server{Deps: d, stopping: make(chan struct{})} }

// Listen opens the address, unless it is open already, and the socket; Serve or
// Stop follows. With open, this process takes over from one that has the socket's
// path, too: it is put in its place by Serve.
func (s *Server) Listen(address string, token secret.String, socket string, open net.Listener) error {
	s.setToken(token)
	var err error
	if s.assets, err = assets(); err != nil {
		return fmt.Errorf("the dashboard can't be read: %w", err)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("admin address: %w", err)
	}
	s.names = map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true, host: true}
	if s.tcp = open; open == nil {
		if s.tcp, err = net.Listen("tcp", address); err != nil {
			return fmt.Errorf("admin address: %w", err)
		}
	}
	s.path = socket
	if s.unix, err = listenSocket(socket, open != nil); err != nil { // the CLI loses its way in; traffic doesn't depend on it
		s.Log.WithError(err).Warn("no admin socket: status and explain on the command line won't work")
	}
	return nil
}

// Serve serves on what Listen has opened. Stop ends it.
func (s *Server) Serve() {
	s.http = server(s.guard(s.routes(s.closed)))
	s.serve(s.http, s.tcp)
	if s.unix == nil {
		return
	}
	if err := os.Rename(ahead(s.path), s.path); err != nil {
		s.Log.WithError(err).Warn("no admin socket: status and explain on the command line won't work")
		_ = s.unix.Close() // nobody could find it
		return
	}
	s.socket = server(s.routes(true))
	s.serve(s.socket, s.unix)
}

// File is a duplicate of the address's socket, to pass on.
func (s *Server) File() (*os.File, error) {
	l, ok := s.tcp.(*net.TCPListener)
	if !ok {
		return nil, errors.New("the admin address has no socket of its own")
	}
	return l.File()
}

// Leave stops accepting, as another process does that on the same address and the
// same path. What has been asked is answered; Stop follows.
func (s *Server) Leave() {
	s.left.Store(true)
	s.closeListeners()
	for _, h := range []*http.Server{s.http, s.socket} {
		if h != nil {
			h.SetKeepAlivesEnabled(false)
		}
	}
}

func (s *Server) setToken(token secret.String) {
	if token != "" {
		s.token, s.closed = sha256.Sum256([]byte(token.Reveal())), true
	}
}

// ahead is where a socket is made, until it serves.
func ahead(path string) string { return strings.TrimSuffix(path, ".sock") + ".new" }

func listenSocket(path string, other bool) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil && !other {
		_ = c.Close()
		return nil, fmt.Errorf("another gateway answers on %s", path)
	} else if err == nil {
		_ = c.Close() // it is the one that this one takes over from
	}
	if err := os.Remove(ahead(path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", ahead(path))
	if err != nil {
		return nil, err
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // it has another name by then
	}
	if err := os.Chmod(ahead(path), 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

func server(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, WriteTimeout: 60 * time.Second,
		IdleTimeout: 60 * time.Second, MaxHeaderBytes: 16 << 10,
	}
}

func (s *Server) serve(h *http.Server, l net.Listener) {
	s.wg.Go(func() {
		if err := h.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !s.left.Load() {
			s.Log.WithError(err).Error("admin server stopped")
		}
	})
}

// Stop ends the server, at the latest when ctx does.
func (s *Server) Stop(ctx context.Context) {
	close(s.stopping)
	for _, h := range []*http.Server{s.http, s.socket} {
		if h != nil && h.Shutdown(ctx) != nil {
			_ = h.Close()
		}
	}
	if s.http == nil { // Listen alone was called
		s.closeListeners()
	}
	s.wg.Wait()
	if s.socket != nil && !s.left.Load() {
		_ = os.Remove(s.path) // a socket that nobody answers on is removed by the next one
	}
}

func (s *Server) closeListeners() {
	for _, l := range []net.Listener{s.tcp, s.unix} {
		if l != nil {
			_ = l.Close() // nothing more is to come from it
		}
	}
}

func (s *Server) routes(changes bool) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n")) // the client's loss
	})
	m.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		r := s.Gateway.Ready()
		code := http.StatusOK
		if !r.Ready {
			code = http.StatusServiceUnavailable
		}
		s.json(w, code, r)
	})
	m.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{ErrorLog: promLog{s.Log}, EnableOpenMetrics: true}))
	m.HandleFunc("GET /api/status", func(w http.ResponseWriter, _ *http.Request) { s.json(w, 200, s.Gateway.Status()) })
	m.HandleFunc("GET /api/config", s.config)
	m.HandleFunc("GET /api/explain", s.explain)
	s.lists(m)
	s.dashboard(m)
	s.cacheRoutes(m, changes)
	s.consumerRoutes(m, changes)
	s.chargeRoutes(m, changes)
	m.HandleFunc("GET /api/usage", s.usage)
	m.HandleFunc("GET /api/usage/live", s.liveUsage)
	if changes {
		m.HandleFunc("POST /api/bans", s.addBan)
		m.HandleFunc("DELETE /api/bans", s.removeBan)
		m.HandleFunc("POST /api/quotas", s.setQuota)
		m.HandleFunc("POST /api/reload", s.reload)
		m.HandleFunc("POST /api/handover", s.handover)
		return m
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := m.Handler(r); pattern == "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "nothing is changed on this address without an admin.token in the configuration, only through the socket admin.sock", http.StatusMethodNotAllowed)
			return
		}
		m.ServeHTTP(w, r)
	})
}

type promLog struct{ log logrus.FieldLogger }

func (p promLog) Println(v ...any) { p.log.Warn("metrics: ", fmt.Sprint(v...)) }

func (s *Server) json(w http.ResponseWriter, code int, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		s.Log.WithError(err).Error("admin: cannot encode an answer")
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // the client's loss
}

func (s *Server) config(w http.ResponseWriter, _ *http.Request) {
	b, err := s.Gateway.Config()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(b) // the client's loss
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	question := Question{Method: q.Get("method"), URL: q.Get("url"), Client: q.Get("client"), Headers: map[string]string{}}
	if question.Method == "" {
		question.Method = http.MethodGet
	}
	for _, h := range q["header"] {
		name, value, ok := strings.Cut(h, ":")
		if !ok {
			http.Error(w, fmt.Sprintf("header %q isn't NAME: VALUE", h), http.StatusBadRequest)
			return
		}
		question.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	e, err := s.Gateway.Explain(question)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.json(w, http.StatusOK, e)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if err := s.Gateway.Reload(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	s.json(w, http.StatusOK, map[string]bool{"reloaded": true})
}

func (s *Server) handover(w http.ResponseWriter, _ *http.Request) {
	h, err := s.Gateway.Handover()
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	s.json(w, http.StatusOK, h)
}

func (s *Server) addBan(w http.ResponseWriter, r *http.Request) {
	lasts, err := time.ParseDuration(r.FormValue("for"))
	if err != nil {
		http.Error(w, fmt.Sprintf("for: %v", err), http.StatusBadRequest)
		return
	}
	b, err := s.Gateway.AddBan(r.FormValue("address"), lasts)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.json(w, http.StatusOK, b)
}

func (s *Server) removeBan(w http.ResponseWriter, r *http.Request) {
	removed, err := s.Gateway.RemoveBan(r.URL.Query().Get("address"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.json(w, http.StatusOK, map[string]bool{"removed": removed})
}
