package app

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/route"
)

var _ admin.Gateway = (*App)(nil)

// viewState is what the admin server shows beside what the parts know
// themselves.
type viewState struct {
	mu         sync.Mutex // guards what follows
	loaded     time.Time
	reloads    int
	rejectedAt time.Time
	rejectedBy string
	draining   bool
	found      []admin.Problem
	version    int               // of the feeds
	changes    []admin.Change    // newest first
	last       [sha256.Size]byte // fingerprint of the files that were last tried
}

// enforced notes a configuration that is in force now, with which version of
// the feeds; files tells that it was loaded anew.
func (v *viewState) enforced(r *ready, version int, files bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.version = version
	v.found = r.problems
	what := "routes"
	if files {
		what = "loaded"
		if !v.loaded.IsZero() {
			v.reloads++
		}
		v.loaded, v.rejectedAt, v.rejectedBy = time.Now(), time.Time{}, ""
	}
	v.changed(admin.Change{Time: time.Now(), What: what})
}

// changed remembers a change. The caller holds mu.
func (v *viewState) changed(c admin.Change) {
	v.changes = slices.Insert(v.changes, 0, c)
	v.changes = v.changes[:min(len(v.changes), maxChanges)]
}

// shows is the version of the feeds that is in force.
func (v *viewState) shows() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.version
}

func (v *viewState) rejected(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rejectedAt, v.rejectedBy = time.Now(), err.Error()
	v.changed(admin.Change{Time: v.rejectedAt, What: "rejected", Error: v.rejectedBy})
}

// tried notes that files with this fingerprint are being loaded, and reports
// whether they are others than the last ones.
func (v *viewState) tried(now [sha256.Size]byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	other := v.last != now
	v.last = now
	return other
}

func (v *viewState) setDraining() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.draining = true
}

// running reports whether the gateway isn't about to end.
func (v *viewState) running() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.draining
}

func (v *viewState) problems() []admin.Problem {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.found
}

// Ready reports whether requests should be sent here.
func (a *App) Ready() admin.Readiness {
	a.view.mu.Lock()
	draining, rejected := a.view.draining, a.view.rejectedBy != ""
	a.view.mu.Unlock()
	if draining {
		return admin.Readiness{Reason: "draining"}
	}
	if !a.serving() {
		return admin.Readiness{Reason: "starting"}
	}
	if a.memory.Level() == memory.Full {
		return admin.Readiness{Reason: "memory is nearly used up"}
	}
	var degraded []string
	if rejected {
		degraded = append(degraded, "the newest configuration was rejected")
	}
	if c := a.consulStatus(); c != nil && !c.Connected {
		degraded = append(degraded, "Consul is away, serving the last known instances")
	}
	if a.memory.Level() == memory.Scarce {
		degraded = append(degraded, "memory is scarce")
	}
	for _, k := range a.keysets.Status() {
		if k.Error != "" {
			degraded = append(degraded, "the keys of "+k.Issuer+" can't be fetched")
		}
	}
	for _, s := range a.services.Status() {
		if s.Error != "" && time.Since(s.Failed) < time.Minute { // nobody may have asked since
			degraded = append(degraded, "the auth service "+s.URL+" doesn't answer")
		}
	}
	if _, outage := a.fleet.Status(); outage != nil {
		degraded = append(degraded, "shared counters can't be asked")
	}
	if a.cacheProblems() != nil {
		degraded = append(degraded, "answers can't be kept on disk")
	}
	if s := a.chargesStatus(); s != nil && s.Failing != "" {
		degraded = append(degraded, "charges can't be written to the disk")
	} else if s != nil && len(s.Down) > 0 {
		degraded = append(degraded, "the billing service "+strings.Join(s.Down, ", ")+" doesn't answer")
	}
	if s := a.unregistered(); s != "" {
		degraded = append(degraded, s)
	}
	if u := a.usageStatus(); u != nil && !u.Up {
		degraded = append(degraded, "usage can't be stored")
	}
	return admin.Readiness{Ready: true, Reason: strings.Join(degraded, "; ")}
}

func (a *App) consulStatus() *admin.ConsulStatus {
	c := a.consul.client()
	if c == nil {
		return nil
	}
	out := &admin.ConsulStatus{Address: c.Address()}
	out.Connected, out.Age = c.Connected()
	for _, w := range c.Status() {
		out.Watches++
		if w.Error != "" && out.Error == "" {
			out.Error = w.What + ": " + w.Error
		}
	}
	return out
}

// Status is the gateway at a glance.
func (a *App) Status() admin.Status {
	a.memory.Look()
	s := admin.Status{
		Version: a.opt.Version, Started: a.started, PID: os.Getpid(), Ready: a.Ready(),
		Listeners: a.server.Status(), Sidecars: a.sidecarsStatus(), Services: a.group.Status(), Stale: a.stale(), Consul: a.consulStatus(), Problems: a.view.problems(),
		Certificate: append(a.certs.Status(), a.identities.status()...), Issuers: a.issuers(), Memory: a.memory.Status(),
		Auth: a.authServices(), Consumers: a.keys.status(), Counters: a.countersStatus(), Charges: a.chargesStatus(), Usage: a.usageStatus(),
	}
	s.Problems = append(append(slices.Clip(s.Problems), a.keys.problems()...), a.cacheProblems()...)
	for key, text := range a.purges.Problems() {
		s.Problems = append(slices.Clip(s.Problems), admin.Problem{Where: "KV " + purgesPrefix(a.consul.config().KV) + key, Text: text})
	}
	if n := a.purges.Waiting(); n > 0 {
		s.Problems = append(slices.Clip(s.Problems), admin.Problem{Where: "cache", Text: fmt.Sprintf("%d purges wait for Consul: other nodes may still answer with what was purged here", n)})
	}
	for _, p := range a.certs.Problems() {
		s.Problems = append(slices.Clip(s.Problems), admin.Problem{Where: "state_dir", Text: p.Error()})
	}
	slices.SortFunc(s.Listeners, func(a, b proxy.ListenerStatus) int { return strings.Compare(a.Name, b.Name) })
	if t := a.handler.Table(); t != nil {
		s.Routes = len(names(t))
	}
	a.view.mu.Lock()
	s.Config = admin.ConfigStatus{Path: a.opt.Config, Loaded: a.view.loaded, Reloads: a.view.reloads, Rejected: a.view.rejectedAt, RejectedBy: a.view.rejectedBy, Changes: slices.Clone(a.view.changes)}
	a.view.mu.Unlock()
	return s
}

// issuers are those whose tokens are asked for, and how their keys are.
func (a *App) issuers() []admin.IssuerStatus {
	var out []admin.IssuerStatus
	for _, k := range a.keysets.Status() {
		s := admin.IssuerStatus{Issuer: k.Issuer, JWKS: k.URL, Keys: k.Keys, Fetched: k.Fetched, Error: k.Error}
		if !k.Fetched.IsZero() {
			s.Age = time.Since(k.Fetched)
		}
		out = append(out, s)
	}
	return out
}

// authServices are those that decide who may call.
func (a *App) authServices() []admin.AuthStatus {
	var out []admin.AuthStatus
	for _, s := range a.services.Status() {
		out = append(out, admin.AuthStatus{URL: s.URL, Requests: s.Calls, Failures: s.Failures, InFlight: s.InFlight, Failed: s.Failed, Error: s.Error})
	}
	return out
}

// stale names the services whose instances are the last known ones.
func (a *App) stale() []string {
	var out []string
	for _, s := range a.snapshots.Status() {
		if s.State == discovery.SnapshotStale {
			out = append(out, s.Query)
		}
	}
	return out
}

// Routes lists the routes in the order of precedence.
func (a *App) Routes() []admin.RouteStatus {
	t := a.handler.Table()
	if t == nil {
		return nil
	}
	return routesOf(t)
}

func routesOf(t *proxy.Table) []admin.RouteStatus {
	out := placesOf(t, "", t.Matcher, 0)
	for _, listener := range slices.Sorted(maps.Keys(t.Own)) {
		m, first := t.Of(listener)
		out = append(out, placesOf(t, listener, m, first)...)
	}
	return out
}

// placesOf are the routes of one matcher, which are those of a table from first on.
func placesOf(t *proxy.Table, listener string, m *route.Matcher, first int) []admin.RouteStatus {
	places := m.List()
	out := make([]admin.RouteStatus, 0, len(places))
	for _, p := range places {
		r := t.Routes[first+p.Rule]
		out = append(out, admin.RouteStatus{
			Name: r.Name, Origin: r.Origin, Host: p.Host, Path: p.Path, Conditions: p.Conditions, Policies: r.Chain.Explain(), To: target(r), Listener: listener,
		})
	}
	return out
}

// target says in a few words where a route's requests go.
func target(r *proxy.Route) string {
	if _, ok := r.Answer.(*finder); ok {
		return "the service that the host names"
	}
	if r.Answer != nil {
		return "the gateway itself"
	}
	if len(r.Shares) == 1 {
		return r.Shares[0].Service
	}
	var parts []string
	for i, s := range r.Shares {
		parts = append(parts, s.Service+" "+shareText(r, i))
	}
	return strings.Join(parts, ", ")
}

func shareText(r *proxy.Route, i int) string {
	if len(r.Shares) < 2 {
		return ""
	}
	before := uint32(0)
	if i > 0 {
		before = r.Shares[i-1].Upto
	}
	return fmt.Sprintf("%.0f %%", 100*float64(r.Shares[i].Upto-before)/float64(r.Shares[len(r.Shares)-1].Upto))
}

// Config is the configuration in force as JSON, secrets hidden.
func (a *App) Config() ([]byte, error) { return json.MarshalIndent(a.current(), "", "  ") }

// Bans are the addresses that are banned.
func (a *App) Bans() []ban.Ban { return a.bans.List(time.Now()) }

// AddBan bans an address.
func (a *App) AddBan(address string, lasts time.Duration) (ban.Ban, error) {
	if err := a.mayChange(); err != nil {
		return ban.Ban{}, err
	}
	b, err := a.bans.Add(address, time.Now(), lasts)
	if err == nil {
		a.log.WithFields(logrus.Fields{"client": b.Client, "for": lasts.String()}).Info("address banned by an operator")
	}
	return b, err
}

// RemoveBan lifts a ban.
func (a *App) RemoveBan(address string) (bool, error) {
	if err := a.mayChange(); err != nil {
		return false, err
	}
	removed, err := a.bans.Remove(address, time.Now())
	if removed {
		a.log.WithField("client", address).Info("ban lifted by an operator")
	}
	return removed, err
}

// Explain says what would become of a request.
func (a *App) Explain(q admin.Question) (admin.Explanation, error) {
	t := a.handler.Table()
	if t == nil {
		return admin.Explanation{}, fmt.Errorf("the gateway is still starting")
	}
	return explain(t, q)
}

func explain(t *proxy.Table, q admin.Question) (admin.Explanation, error) {
	x, err := question(q)
	if err != nil {
		return admin.Explanation{}, err
	}
	if x.Conn.Listener, err = listenerOf(t, q, x.RawHost); err != nil {
		return admin.Explanation{}, err
	}
	e := admin.Explanation{Method: x.Method, Scheme: x.Conn.Scheme, Host: x.RawHost, Path: x.RawTarget, Listener: x.Conn.Listener}
	if f := x.Canonicalise(); f != nil {
		e.Refused, e.Status = f.Error(), proxy.StatusOf(f)
		return e, nil
	}
	e.Host, e.Path = strings.Clone(x.Target.Host), strings.Clone(x.Target.Path)
	matcher, _ := t.Of(x.Conn.Listener)
	for _, c := range matcher.Explain(x) {
		name := c.Name
		if c.Host != "" || c.Path != "" {
			name += " (" + c.Host + c.Path + ")"
		}
		e.Candidates = append(e.Candidates, admin.CandidateStatus{Route: name, Matches: c.Taken, Why: c.Why})
	}
	m := t.Match(x)
	if m.Rule < 0 {
		e.Refused, e.Status = m.Miss.String(), 404
		switch m.Miss {
		case route.MethodNotAllowed:
			e.Status = 405
		case route.TwoRoutes:
			e.Status = 400
		}
		return e, nil
	}
	r := t.Routes[m.Rule]
	x.Priority = r.Priority
	if len(r.Shares) == 1 {
		x.ServiceName = r.Shares[0].Service
	}
	e.Route, e.Origin, e.Policies = r.Name, r.Origin, r.Chain.Test(x)
	e.Priority = x.Rank().String() // of who is calling, as far as that is known
	if f, ok := r.Answer.(*finder); ok {
		e.Note, err = f.explain(x.Target.Host)
		return e, err
	}
	if r.Answer != nil {
		_, err := r.Answer.Request(x)
		var f *exchange.Fault
		if errors.As(err, &f) {
			e.Status = proxy.StatusOf(f)
			return e, nil
		}
		e.Status = x.Status
		if err != nil {
			return e, err
		}
		return e, nil
	}
	e.Forwarded = r.ForwardedPath(x)
	for i, s := range r.Shares {
		e.Services = append(e.Services, admin.ServiceExplanation{Share: shareText(r, i), Explanation: s.Pool.Explain(x)})
	}
	return e, nil
}

// question makes an exchange of a request that isn't sent.
func question(q admin.Question) (*exchange.Exchange, error) {
	u, err := url.Parse(q.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%q isn't a URL like https://api.example.com/orders", q.URL)
	}
	client := netip.MustParseAddr("127.0.0.1")
	if q.Client != "" {
		if client, err = netip.ParseAddr(q.Client); err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
	}
	// The target as it was typed: url.Parse would hide what it normalises.
	_, rest, _ := strings.Cut(q.URL, "://")
	target := "/"
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		target = rest[i:]
		if target[0] == '?' {
			target = "/" + target
		}
	}
	target, _, _ = strings.Cut(target, "#")
	x := &exchange.Exchange{}
	x.Reset(exchange.HTTP11, &exchange.Conn{Scheme: u.Scheme, Remote: netip.AddrPortFrom(client, 0), RemoteIP: client.String()}, nil)
	x.Start = time.Now()
	x.Method, x.RawTarget, x.RawHost, x.ClientIP = strings.ToUpper(q.Method), target, u.Host, client
	x.Request.Append("Host", u.Host)
	for name, value := range q.Headers {
		x.Request.Append(name, value)
	}
	return x, nil
}

// OfflineRoutes lists the routes without a running gateway.
func OfflineRoutes(ctx context.Context, opt Options) ([]admin.RouteStatus, error) {
	var out []admin.RouteStatus
	err := offline(ctx, opt, func(t *proxy.Table) error {
		out = routesOf(t)
		return nil
	})
	return out, err
}

// OfflineExplain explains without a running gateway.
func OfflineExplain(ctx context.Context, opt Options, q admin.Question) (admin.Explanation, error) {
	var out admin.Explanation
	err := offline(ctx, opt, func(t *proxy.Table) error {
		var err error
		out, err = explain(t, q)
		return err
	})
	return out, err
}

// offline makes a table as a start would, listening on nothing and writing
// nothing that stays, and gives it to f.
func offline(ctx context.Context, opt Options, f func(*proxy.Table) error) error {
	file, err := load(opt)
	if err != nil {
		return err
	}
	temp, err := os.MkdirTemp("", "sidegate-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	dry := *file
	dry.StateDir, dry.Log.Level, opt.sealDir = temp, "error", file.StateDir
	a, err := assemble(opt, &dry)
	if err != nil {
		return err
	}
	end := &cleanups{log: a.log}
	defer end.run()
	if err := a.consul.configure(file.Consul); err != nil {
		return err
	}
	end.add("pools", func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		a.group.Close(ctx)
	})
	if disk, err := consumer.OpenDisk(filepath.Join(file.StateDir, keysFile)); err == nil { // read, never written
		a.keys.load(disk)
	}
	end.background("keys", a.keys.run)
	end.background("feeds", a.feed)
	a.feeds.wait(2 * time.Second)
	said := a.feeds.read()
	r, err := a.prepare(file, &said)
	if err != nil {
		return err
	}
	r.pools.Commit()
	end.background("key sets", a.keysets.Run)
	r.keys.Commit()
	a.keys.setFiles(file, r.consumers, r.personal.Sets())
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	a.group.Wait(ctx)
	a.keysets.Wait(ctx)
	a.keys.wait(ctx)
	return f(r.table)
}
