package app

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/systemd"
)

const (
	// firstInstances is how long a new table waits for the first instances of
	// its services, and for the keys of its issuers; without them it answers 503
	// for those.
	firstInstances = time.Second
	// filePoll is how often the configuration's files are looked at. Polling
	// sees what notifications miss: network file systems and swapped symlinks.
	filePoll = time.Second
)

// enforce puts a configuration in force: all of it, or, with an error, nothing.
// listeners says whether its listeners are to be looked at, too; a feed's
// change doesn't touch them.
func (a *App) enforce(file *config.File, listeners bool) error {
	a.build.Lock()
	defer a.build.Unlock()
	said := a.feeds.read()
	r, err := a.prepare(file, &said)
	if err != nil {
		return err
	}
	var sockets *proxy.ServerPlan
	if listeners {
		if sockets, err = a.server.Plan(file.Listeners, r.table.Trust); err != nil {
			return err
		}
	}
	if err := a.consul.configure(file.Consul); err != nil {
		if sockets != nil {
			sockets.Abort()
		}
		return err
	}

	// From here on nothing fails, but for the old process that a first
	// configuration takes over from; then this process ends.
	if listeners {
		for _, w := range r.certs.Warnings() {
			a.log.Warn(w)
		}
	}
	r.pools.Commit()
	r.keys.Commit()
	r.auth.Commit()
	r.billing.Commit()
	a.keys.setFiles(file, r.consumers, r.personal.Sets())
	r.certs.Commit(context.Background())
	a.count(r.counting)
	ctx, cancel := context.WithTimeout(context.Background(), firstInstances)
	a.group.Wait(ctx)
	a.keysets.Wait(ctx)
	a.keys.wait(ctx)
	cancel()
	if err := a.takeOver(); err != nil {
		return err
	}
	a.traces.Configure(r.file.Tracing, r.tracingCA)
	a.handler.SetTable(r.table)
	a.abuse.Store(a.bans.Abuse(bansOf(r.table)))
	if a.file.Cache != file.Cache {
		a.cached.SetConfig(file.Cache)
	}
	if a.file.MemoryLimit != file.MemoryLimit {
		a.memory.SetLimit(file.MemoryLimit)
	}
	a.purges.SetOff(purgesShared(file.Consul))
	a.file = file
	setLog(a.log, file.Log)
	if sockets != nil {
		if err := sockets.Commit(); err != nil {
			a.log.WithError(err).Error("a listener serves without HTTP/3")
		}
	}
	a.stats.Retain(inUse(r.table))
	kept := r.counted()
	a.counters.Retain(kept)
	a.quotas.Retain(kept)
	a.flight.Retain(kept)
	a.bans.Retain(kept)
	a.waf.Retain(kept)
	a.described.Retain(kept)
	a.encoders.Retain(kept)
	a.cached.Retain(kept)
	a.charges.Retain(kept)
	a.view.enforced(r, said.version, listeners)
	return nil
}

// inUse keeps the counters of a table's routes.
func inUse(t *proxy.Table) func(*proxy.RouteStats) bool {
	used := map[*proxy.RouteStats]bool{}
	for _, r := range t.Routes {
		used[r.Stats] = true
		for _, s := range r.Shares {
			used[s.Stats] = true
		}
	}
	return func(r *proxy.RouteStats) bool { return r.Route == "" || used[r] }
}

// names are those of a table's routes.
func names(t *proxy.Table) map[string]bool {
	list := map[string]bool{}
	for _, r := range t.Routes {
		list[r.Name] = true
	}
	return list
}

// counted are the names that counters go by: of the routes, and of the sets of
// policies that count for consumers.
func (r *ready) counted() map[string]bool {
	list := names(r.table)
	for _, name := range r.personal.Sets() {
		list[policySet(name)] = true
	}
	return list
}

// serving reports whether a first table is in force.
func (a *App) serving() bool { return a.handler.Table() != nil }

// refresh makes a new table of the same files after a feed's change.
func (a *App) refresh(context.Context) {
	before := a.view.problems()
	if err := a.enforce(a.current(), false); err != nil {
		a.log.WithError(err).Error("what Consul says can't be put in force; the routes stay as they were")
		return
	}
	for _, p := range a.view.problems() {
		if !slices.Contains(before, p) {
			a.log.WithFields(logrus.Fields{"where": p.Where}).Warn(p.Text)
		}
	}
	a.log.WithField("routes", len(a.handler.Table().Routes)).Info("routes changed")
}

func (a *App) current() *config.File {
	a.build.Lock()
	defer a.build.Unlock()
	return a.file
}

// Reload loads the files again and puts them in force, or keeps what is and
// says why.
func (a *App) Reload(context.Context) error {
	a.handing.changing.Lock() // sockets stay as they are while they are passed on
	defer a.handing.changing.Unlock()
	if a.passedOn() {
		return fmt.Errorf("process %d has taken over: ask it", a.handing.next.Load())
	}
	if !a.view.running() {
		return errors.New("the gateway is stopping")
	}
	begin := time.Now()
	a.view.tried(a.fingerprint())
	_ = systemd.Reloading() // systemd finds out by itself
	defer func() { _ = systemd.Ready() }()
	file, err := load(a.opt)
	if err == nil {
		err = a.pinned(file)
	}
	if err == nil {
		err = a.enforce(file, true)
	}
	if err != nil {
		a.view.rejected(err)
		var text *ConfigError
		if errors.As(err, &text) { // lines with places, of no use inside a log line
			fmt.Fprint(a.opt.Stderr, text.Text)
			a.log.Error("the new configuration isn't in force, for the errors above; the old one goes on")
			return err
		}
		a.log.WithError(err).Error("the new configuration isn't in force; the old one goes on")
		return err
	}
	a.keepSockets()
	a.log.WithFields(logrus.Fields{"routes": len(a.handler.Table().Routes), "took": time.Since(begin).String()}).Info("configuration reloaded")
	return nil
}

// pinned refuses a change of what only a start can set.
func (a *App) pinned(file *config.File) error {
	now := a.current()
	var errs []error
	if file.StateDir != now.StateDir {
		errs = append(errs, fmt.Errorf("state_dir changed from %s to %s", now.StateDir, file.StateDir))
	}
	if file.Admin != now.Admin {
		errs = append(errs, errors.New("the admin block changed"))
	}
	if file.Counters != now.Counters {
		errs = append(errs, errors.New("the counters block changed"))
	}
	if (file.Usage == nil) != (now.Usage == nil) || file.Usage != nil && *file.Usage != *now.Usage {
		errs = append(errs, errors.New("the usage block changed"))
	}
	if file.Charges != now.Charges {
		errs = append(errs, errors.New("the charges block changed"))
	}
	if (file.AccessLog == nil) != (now.AccessLog == nil) || file.AccessLog != nil && file.AccessLog.Output != now.AccessLog.Output {
		errs = append(errs, errors.New("the access_log block's output changed"))
	}
	if (file.AuditLog == nil) != (now.AuditLog == nil) || file.AuditLog != nil && *file.AuditLog != *now.AuditLog {
		errs = append(errs, errors.New("the audit_log block changed"))
	}
	if len(errs) > 0 {
		errs = append(errs, errors.New("that takes a restart"))
	}
	return errors.Join(errs...)
}

// watchFiles reloads when a file of the configuration has changed and then
// stayed the same for one poll, so that a half-written file isn't read.
func (a *App) watchFiles(ctx context.Context) {
	last := a.fingerprint()
	a.view.tried(last)
	t := time.NewTicker(filePoll)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := a.fingerprint()
		if now == last && a.view.tried(now) {
			_ = a.Reload(ctx) // said in the log and in status
		}
		last = now
	}
}

// fingerprint is a hash over names, sizes and times of the configuration's
// files and folder.
func (a *App) fingerprint() [sha256.Size]byte {
	h := sha256.New()
	add := func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintln(h, path, "missing")
			return
		}
		if info.IsDir() {
			entries, err := os.ReadDir(path)
			fmt.Fprintln(h, path, len(entries), err)
			for _, e := range entries {
				fmt.Fprintln(h, e.Name())
			}
			return
		}
		fmt.Fprintln(h, path, info.Size(), info.ModTime().UnixNano())
	}
	add(a.opt.Config)
	for _, f := range a.current().Files {
		add(f)
	}
	for _, f := range a.documents.Paths() { // with those that a document refers to
		add(f)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// listenerTLS is the configuration of a listener's handshakes.
func (a *App) listenerTLS(cfg *proxy.ListenerConfig, quic bool) (*tls.Config, error) {
	var cas *x509.CertPool
	if cfg.ClientCAFile != "" {
		pem, err := os.ReadFile(cfg.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("client_ca_file: %w", err)
		}
		cas = x509.NewCertPool()
		if !cas.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("client_ca_file: %s has no certificate in PEM", cfg.ClientCAFile)
		}
	}
	if quic {
		return a.certs.QUICConfig(cas), nil
	}
	var alpn []string
	if slices.Contains(cfg.Protocols, "h2") {
		alpn = append(alpn, "h2")
	}
	if slices.Contains(cfg.Protocols, "h1") {
		alpn = append(alpn, "http/1.1")
	}
	return a.certs.ServerConfig(alpn, cas), nil
}
