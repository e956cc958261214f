package tls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/sirupsen/logrus"
)

// unitID is the settings that a unit was made from. A plan with the same ones
// keeps the unit, and with it every certificate, order and back-off.
type unitID struct {
	directory, email, challenges, storage, ask string
	caSum                                      [32]byte
	checkEvery                                 time.Duration
}

// unit gets and renews the certificates of one ACME configuration.
type unit struct {
	id      unitID
	log     logrus.FieldLogger
	now     func() time.Time
	store   certmagic.Storage
	storing *watched // store, behind a watch
	shared  bool     // the storage is the fleet's
	issuer  *issuer
	cache   *certmagic.Cache
	routes  *certmagic.Config // names in routes
	demand  *certmagic.Config // names that on_demand allows; nil: off
	asker   *asker
	book    *book
	names   atomic.Pointer[map[string]struct{}] // the hosts to have certificates for

	ctx    context.Context // of all background work; ended by stop
	cancel context.CancelFunc
	work   sync.WaitGroup
	slots  chan struct{} // orders at once
	asking chan struct{} // handshakes that wait for a certificate

	mu      sync.Mutex // guards what follows
	pursued map[string]context.CancelFunc
	stopped bool

	memo sync.Map // name to *memoised, for the names in routes
}

type memoised struct {
	cert  *tls.Certificate
	until time.Time
}

const (
	ordersAtOnce = 32
	waitersMax   = 64
	// The authority's account limits are its own; this spreads the load that
	// thousands of new hosts would be.
	ordersPerWindow = 10
	orderWindow     = 10 * time.Second
)

// newUnit makes a unit and starts certmagic's maintenance; stop ends both.
func newUnit(m *Manager, id unitID, st certmagic.Storage, roots *x509.CertPool) *unit {
	u := &unit{
		id: id, log: m.log, now: m.now, store: st, storing: &watched{Storage: st}, shared: id.storage != "file", book: m.book,
		slots: make(chan struct{}, ordersAtOnce), asking: make(chan struct{}, waitersMax),
		pursued: make(map[string]context.CancelFunc),
	}
	u.names.Store(&map[string]struct{}{})
	u.ctx, u.cancel = context.WithCancel(context.Background())
	zlog := newZap(m.log)
	u.issuer = &issuer{
		directory: id.directory, email: id.email, client: newACMEClient(id.directory, roots, zlog), store: st, log: zlog,
		key:     (&certmagic.ACMEIssuer{CA: id.directory}).IssuerKey(),
		life:    u.ctx,
		limit:   certmagic.NewRateLimiter(ordersPerWindow, orderWindow),
		current: u.current, allowed: u.mayOrder, renewal: u.book.renewal,
	}
	sv := solver{c: m.challenges, issuer: u.issuer.key}
	if u.shared {
		sv.shared = st
	}
	u.issuer.client.ChallengeSolvers = make(map[string]acmez.Solver)
	for c := range strings.SplitSeq(id.challenges, ",") {
		u.issuer.client.ChallengeSolvers[c] = sv
	}
	u.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   u.configFor,
		RenewCheckInterval: id.checkEvery,
		OCSPCheckInterval:  time.Hour,
		Logger:             zlog,
	})
	conf := certmagic.Config{
		RenewalWindowRatio: certmagic.DefaultRenewalWindowRatio,
		OnEvent:            u.event,
		ShouldEmitFunc:     func(event string) bool { return event != "tls_get_certificate" },
		Issuers:            []certmagic.Issuer{u.issuer},
		IssuerPolicy:       certmagic.UseFirstIssuer,
		KeySource:          certmagic.StandardKeyGenerator{KeyType: certmagic.P256},
		Storage:            u.storing,
		Logger:             zlog,
	}
	u.routes = certmagic.New(u.cache, conf)
	if id.ask != "" {
		u.asker = newAsker(id.ask, m.now)
		conf.OnDemand = &certmagic.OnDemandConfig{DecisionFunc: u.allow}
		u.demand = certmagic.New(u.cache, conf)
	}
	return u
}

// stop ends all work and waits for it, at most for ten seconds: an order that
// has just succeeded is still stored.
func (u *unit) stop() {
	u.mu.Lock()
	u.stopped = true
	u.mu.Unlock()
	u.cancel()
	u.work.Wait()
	u.cache.Stop()
	u.issuer.limit.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if h, ok := u.store.(interface{ holding() int }); ok {
		for h.holding() > 0 && pause(ctx, 20*time.Millisecond) == nil {
		}
	}
	u.issuer.client.HTTPClient.CloseIdleConnections()
}

// spawn starts work that stop awaits; not once it has been called.
func (u *unit) spawn(f func()) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.stopped {
		u.work.Go(f)
	}
	return !u.stopped
}

// configFor is certmagic's question how to renew a certificate.
func (u *unit) configFor(cert certmagic.Certificate) (*certmagic.Config, error) {
	if u.demand != nil && len(cert.Names) > 0 {
		if _, ok := (*u.names.Load())[cert.Names[0]]; !ok {
			return u.demand, nil
		}
	}
	return u.routes, nil
}

// setNames makes the unit care for exactly these hosts. What storage has is
// loaded before it returns, as far as ctx allows; the rest comes in the
// background.
func (u *unit) setNames(ctx context.Context, names map[string]struct{}) {
	old := *u.names.Swap(&names)
	var gone []certmagic.SubjectIssuer
	for n := range old {
		if _, ok := names[n]; !ok {
			gone = append(gone, certmagic.SubjectIssuer{Subject: n})
			u.abandon(n)
			u.memo.Delete(n)
			u.book.drop(n)
		}
	}
	u.cache.RemoveManaged(gone)
	fresh := make(chan string)
	var loaders sync.WaitGroup
	for range 8 {
		loaders.Go(func() {
			for n := range fresh {
				if u.load(ctx, n) != nil {
					u.pursue(n)
				}
			}
		})
	}
	added := 0
	for n := range names {
		if _, ok := old[n]; !ok {
			fresh <- n
			added++
		}
	}
	close(fresh)
	loaders.Wait()
	if added > 0 {
		// What was loaded may be due, or its renewal window stale: certmagic
		// would look only after the first interval.
		u.spawn(func() {
			if err := u.cache.RenewManagedCertificates(u.ctx); err != nil {
				u.log.WithError(err).Warn("looking for due renewals")
			}
		})
	}
}

func (u *unit) load(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := u.routes.CacheManagedCertificate(ctx, name)
	return err
}

// pursue tries to get a certificate until there is one, in a goroutine that
// ends with the unit, or when the host goes.
func (u *unit) pursue(name string) {
	ctx, cancel := context.WithCancel(u.ctx)
	u.mu.Lock()
	u.pursued[name] = cancel
	u.mu.Unlock()
	u.spawn(func() {
		defer cancel()
		for try := 0; ; try++ {
			select {
			case u.slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			err := u.obtain(ctx, name)
			<-u.slots
			if err == nil || ctx.Err() != nil {
				return
			}
			wait := backoff(try)
			u.failed(name, err, wait)
			if pause(ctx, wait) != nil {
				return
			}
		}
	})
}

func (u *unit) abandon(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if cancel, ok := u.pursued[name]; ok {
		cancel()
		delete(u.pursued, name)
	}
}

// obtain gets one certificate, from storage when another gateway, or an
// earlier try, left it there. Since these tries are ours and not certmagic's,
// a full disk or a lost lock is tried again like a refusal.
func (u *unit) obtain(ctx context.Context, name string) error {
	err := u.routes.ObtainCertSync(ctx, name)
	if err == nil {
		err = u.load(ctx, name)
	}
	return err
}

// backoff is the wait after a failed try. The first five tries fall into more
// than an hour: Let's Encrypt allows five failures an hour for a name.
func backoff(try int) time.Duration {
	steps := []time.Duration{1, 5, 12, 20, 30, 60, 120, 240}
	if try < len(steps) {
		return steps[try] * time.Minute
	}
	return 6 * time.Hour
}

func (u *unit) failed(name string, err error, wait time.Duration) {
	if u.book.fail(name, err, u.now(), u.now().Add(wait)) {
		u.log.WithFields(logrus.Fields{"host": name, "retry_in": wait.String()}).WithError(err).
			Warn("no certificate yet; the local authority's is served")
	}
}

// event is told by certmagic what happened.
func (u *unit) event(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	switch event {
	case "cert_obtained":
		renewal, _ := data["renewal"].(bool)
		u.log.WithFields(logrus.Fields{"host": name, "renewal": renewal, "issuer": data["issuer"]}).Info("certificate obtained")
		u.book.ok(name)
		u.memo.Delete(name)
	case "cert_failed":
		err, _ := data["error"].(error)
		renewal, _ := data["renewal"].(bool)
		if u.asker != nil {
			u.asker.failed(name)
		}
		if renewal && u.book.fail(name, err, u.now(), time.Time{}) {
			u.log.WithField("host", name).WithError(err).Warn("renewing failed; the present certificate is served")
		}
	case "cached_managed_cert":
		names, _ := data["sans"].([]string)
		for _, n := range names {
			u.memo.Delete(n)
			if _, ok := (*u.names.Load())[n]; ok {
				u.book.ok(n)
			} else if u.asker != nil {
				u.asker.grant(n)
			}
		}
	}
	return nil
}

// find returns the newest certificate of a host in a route, expired or not;
// nil when there is none yet.
func (u *unit) find(name string) *tls.Certificate {
	if _, ok := (*u.names.Load())[name]; !ok {
		return nil
	}
	now := u.now()
	if m, ok := u.memo.Load(name); ok && now.Before(m.(*memoised).until) {
		return m.(*memoised).cert
	}
	cert := u.newest(name)
	u.memo.Store(name, &memoised{cert, now.Add(time.Second)})
	return cert
}

func (u *unit) newest(name string) *tls.Certificate {
	var best *tls.Certificate
	for _, c := range u.cache.AllMatchingCertificates(name) {
		if c.Leaf == nil || len(c.Names) == 0 || c.Names[0] != name {
			continue
		}
		if best == nil || c.Leaf.NotAfter.After(best.Leaf.NotAfter) {
			best = &c.Certificate
		}
	}
	return best
}

// current is the certificate that an order for name would replace.
func (u *unit) current(name string) *x509.Certificate {
	if c := u.newest(name); c != nil {
		return c.Leaf
	}
	return nil
}

// allow decides whether a name may get a certificate in a handshake.
func (u *unit) allow(ctx context.Context, name string) error {
	if _, ok := (*u.names.Load())[name]; ok {
		return nil
	}
	return u.asker.allow(ctx, name)
}

// mayOrder limits orders for names that are in no route.
func (u *unit) mayOrder(name string) error {
	if _, ok := (*u.names.Load())[name]; ok || u.asker == nil {
		return nil
	}
	return u.asker.order(name)
}

// onDemand serves a name that is in no route. Getting a certificate goes on
// when the client leaves, so that its next try finds one.
func (u *unit) onDemand(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if u.demand == nil {
		return nil, nil
	}
	if c := u.newest(name); c != nil && u.now().Before(c.Leaf.NotAfter) {
		return u.demand.GetCertificateWithContext(u.ctx, hello)
	}
	if err := u.asker.ready(name); err != nil {
		return nil, err
	}
	select {
	case u.asking <- struct{}{}:
	default:
		return nil, errors.New("too many handshakes wait for new certificates")
	}
	type result struct {
		cert *tls.Certificate
		err  error
	}
	done := make(chan result, 1)
	started := u.spawn(func() {
		defer func() { <-u.asking }()
		cert, err := u.demand.GetCertificateWithContext(u.ctx, hello)
		done <- result{cert, err}
	})
	if !started {
		<-u.asking
		return nil, context.Canceled
	}
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("on demand: %w", r.err)
		}
		return r.cert, nil
	case <-hello.Context().Done():
		return nil, hello.Context().Err()
	}
}

// snapshot returns the certificates of hosts, for a unit that takes over.
func (u *unit) snapshot() map[string]*tls.Certificate {
	held := make(map[string]*tls.Certificate)
	for n := range *u.names.Load() {
		if c := u.newest(n); c != nil {
			held[n] = c
		}
	}
	return held
}
