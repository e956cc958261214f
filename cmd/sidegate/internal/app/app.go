// Package app assembles the gateway: it loads the configuration, compiles it
// into what the data plane runs on, starts everything in order, reloads, and
// stops in the reverse order. Two lists live here: policies.go and sources.go.
//
// # What lives how long
//
//	made once          log, counters (of metrics, what is remembered of them, usage, rate limits, quotas, requests in flight), charges, bans, the waf's rules, consumers and keys from outside the files, issuers' keys, what is known of tokens and passwords, cached answers and which purges of the fleet they have seen, connections to auth services and what they said, sessions that were read or ended, encoders, the sender of traces, sweeper, handler, server (sockets), pools,
//	                   certificates, snapshots, the Consul client's place
//	swapped at reload  the configuration file, the table, the listeners' settings
//	fed from outside   instances (each into its own pool), consumers and keys (into the keyring), claims of
//	                   registrations and KV entries (into the next table)
//
// All that can fail happens before anything live is touched: load, plan the
// pools, plan the certificates, bind new addresses, compile the table. Then the
// plans are committed and one pointer is swapped.
//
// # Goroutines
//
// Run starts, and awaits: the sweeper, the watch over memory, what remembers traffic, the fetching of issuers' keys, the access and audit logs' writers, the sender of traces, the snapshots'
// writer, the quotas' writer, the charges' writer and courier, the cache's on disk, what looks after the fleet's counters, what stores the usage, the bans' writer and their exchange with the fleet, that of the cache's purges, the watch of the fleet's keys, the certificates' upkeep, the watch of the files, systemd's watchdog, and the feeds from
// Consul. Pools and listeners own theirs.
package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/h3"
	"github.com/sidegate-proxy/sidegate/proxy/linelog"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/basic"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/forward"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/introspect"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/jwt"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/oidc"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
	"github.com/sidegate-proxy/sidegate/proxy/policy/compress"
	"github.com/sidegate-proxy/sidegate/proxy/policy/geo"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
	"github.com/sidegate-proxy/sidegate/proxy/policy/limits"
	"github.com/sidegate-proxy/sidegate/proxy/policy/network"
	"github.com/sidegate-proxy/sidegate/proxy/policy/openapi"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
	"github.com/sidegate-proxy/sidegate/proxy/policy/validate"
	"github.com/sidegate-proxy/sidegate/proxy/policy/waf"
	"github.com/sidegate-proxy/sidegate/proxy/sweep"
	"github.com/sidegate-proxy/sidegate/proxy/tail"
	"github.com/sidegate-proxy/sidegate/proxy/tracing"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
	"github.com/sidegate-proxy/sidegate/systemd"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// Options say what to run.
type Options struct {
	Config  string // file or folder
	Version string
	Stderr  io.Writer
	Env     func(string) (string, bool) // nil: the process's
	// Ready is called once the gateway serves; nil: nobody.
	Ready func()
	// Handover says that the same command line, started again, is this gateway: it
	// may take over from one that runs, and pass on to the next.
	Handover bool
	// Sidecar wants a configuration that describes sidecars, and no gateway.
	Sidecar bool

	sealDir string // where the fleet's key is, for what works on a state_dir that goes again; "": state_dir
}

// ConfigError is a configuration that isn't right. Its text is what the user
// sees, with places, and ends with a newline.
type ConfigError struct{ Text string }

func (e *ConfigError) Error() string { return e.Text }

// App is a gateway. Make it with New, then Run it once.
type App struct {
	opt     Options
	log     *logrus.Logger
	started time.Time

	// Long-lived: made once.
	stats      *proxy.Stats
	traffic    *traffic.Recorder
	tail       *tail.Tap
	counters   *ratelimit.Store
	keysets    *keyset.Store
	tokens     *jwt.Cache
	passwords  *basic.Verifier
	services   *remote.Store
	answers    *forward.Cache
	known      *introspect.Cache
	logins     *oidc.Store
	encoders   *compress.Store
	networks   network.Files
	listed     network.Lists
	geo        geo.Files
	documents  openapi.Files
	described  *validate.Store
	cached     *cache.Store
	purges     *cache.Fleet
	flight     limits.Store
	bans       *ban.Store
	abuse      atomic.Pointer[ban.Abuse] // what the configuration in force bans connections' addresses by
	memory     *memory.Guard
	quotas     *quota.Store
	charges    *charge.Ledger
	keys       *keyStore
	waf        *waf.Store
	fleet      *shared.Fleet
	sweeper    *sweep.Sweeper
	handler    *proxy.Handler
	server     *proxy.Server
	group      *upstream.Group
	certs      *edgetls.Manager
	snapshots  *discovery.Snapshots
	consul     *consulPlace
	named      *namedServices
	registered registering
	identities *identities
	remembered discovery.Source // consul, with the last known instances behind it
	accessLog  *linelog.Writer  // that of the first configuration: its output isn't changed by a reload
	auditLog   *linelog.Writer  // likewise
	traces     *tracing.Exporter
	admin      *admin.Server

	usage    *usage.Keeper // nil: there is no usage block
	own      *ownUsage     // likewise
	counting *counting     // what the fleet counts by, of the configuration in force

	handing handing // what a handover works with
	shares  shares  // how the durable state is shared with another process

	// build is held while a configuration is made ready and put in force.
	build          sync.Mutex
	file           *config.File  // the one in force
	compiled       compiled      // of the last one that was made ready
	planning       *config.File  // the one being made ready
	planIdentities *identityPlan // of planning
	feeds          feeds

	view viewState
}

// New loads the configuration and makes the gateway's parts, listening on
// nothing yet.
func New(opt Options) (*App, error) {
	if opt.Stderr == nil {
		opt.Stderr = os.Stderr
	}
	var h handing
	var err error
	if opt.Handover {
		if h, err = newHanding(); err != nil {
			return nil, err
		}
	}
	a, err := newApp(opt)
	if err != nil {
		h.before.Failed(err)
		return nil, err
	}
	a.handing.command, a.handing.before = h.command, h.before
	a.handing.command.Version, a.handing.command.State = opt.Version, a.file.StateDir
	if h.before != nil {
		a.hold()
	}
	if err := a.inherit(); err != nil {
		h.before.Failed(err)
		return nil, err
	}
	return a, nil
}

func newApp(opt Options) (*App, error) {
	file, err := load(opt)
	if err != nil {
		return nil, err
	}
	return assemble(opt, file)
}

// load reads the configuration; warnings go to the log's output.
func load(opt Options) (*config.File, error) {
	file, diags := config.Load(opt.Config, config.Options{Kinds: kinds(means{}), Env: opt.Env})
	if diags.HasErrors() {
		return nil, &ConfigError{Text: diags.String()}
	}
	if text := diags.String(); text != "" {
		fmt.Fprint(opt.Stderr, text)
	}
	if opt.Sidecar && !file.SidecarOnly() {
		if len(file.Sidecars) == 0 {
			return nil, fmt.Errorf("%s has no sidecar block: write one, or run it with sidegate run", opt.Config)
		}
		return nil, fmt.Errorf("%s has listeners or routes beside its sidecars, which are a gateway's: run it with sidegate run", opt.Config)
	}
	return file, nil
}

func assemble(opt Options, file *config.File) (*App, error) {
	a := &App{opt: opt, started: time.Now(), stats: proxy.NewStats(), counters: ratelimit.NewStore(file.Counters.StoreConfig), sweeper: sweep.New(), file: file}
	a.tail = new(tail.Tap)
	a.traffic = traffic.New(traffic.Deps{Totals: a.stats.Totals, InFlight: a.inFlight, Clock: time.Now})
	a.handing.passing, a.shares.claimed = newPassing(), make(chan struct{})
	a.feeds.first, a.feeds.dirty = make(chan struct{}), make(chan struct{}, 1)
	a.log = newLog(file.Log, opt.Stderr)
	if err := os.MkdirAll(file.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("state_dir: %w: create it, or set state_dir to a folder that this user may write", err)
	}
	a.counters.Seed(stateKey(a.log, file.StateDir, "rates.key", "rate limits begin anew after a restart"))
	a.keysets, a.tokens = keyset.NewStore(keyset.Deps{Log: a.log.WithField("component", "keys")}), jwt.NewCache()
	a.passwords, a.described = basic.NewVerifier(), validate.NewStore(a.log.WithField("component", "validate"))
	a.services, a.answers = remote.NewStore(a.log.WithField("component", "auth")), forward.NewCache()
	a.known, a.cached = introspect.NewCache(), cache.NewStore(file.Cache)
	a.logins = oidc.NewStore(stateKey(a.log, file.StateDir, "login.key", "sessions of auth \"oidc\" won't survive a restart"))
	var lost error
	if a.bans, lost = ban.NewStore(ban.Deps{Log: a.log.WithField("component", "ban"), Path: filepath.Join(file.StateDir, "bans.json")}); lost != nil {
		a.log.WithError(lost).Error("the bans from before the restart can't be read, and are lifted")
	}
	a.fleet = shared.NewFleet(a.log.WithField("component", "shared counters"))
	a.quotas = quota.NewStore(quota.Deps{
		Log: a.log.WithField("component", "quota"), Path: filepath.Join(file.StateDir, "quota.log"), Room: file.Counters.RoomConfig, Fleet: a.fleet,
	})
	a.charges = charge.NewLedger(charge.Deps{
		Log: a.log.WithField("component", "charges"), Path: filepath.Join(file.StateDir, "charges"), Config: file.Charges,
	})
	a.snapshots = discovery.NewSnapshots(filepath.Join(file.StateDir, "snapshots"), a.log.WithField("component", "snapshots"))
	a.purges = a.newPurges()
	a.consul = newConsulPlace(a.log.WithField("component", "consul"))
	if file.SidecarOnly() {
		a.consul.blocking = sidecarBlocking
	}
	a.named = newNamedServices(a)
	a.identities = &identities{log: a.log, live: map[edgetls.IdentitySettings]*liveIdentity{}}
	a.remembered = a.snapshots.Wrap("consul", a.consul)
	a.keys = newKeyStore(a.log.WithField("component", "keys"), filepath.Join(file.StateDir, keysFile), a.consul, a.snapshots, opt.Env)
	deps := edgetls.Deps{Log: a.log, StateDir: file.StateDir, SealDir: opt.sealDir}
	if file.Consul != nil {
		deps.KV = placeStore{a.consul}
	}
	a.memory = newMemoryGuard(a.log, file.MemoryLimit)
	a.encoders = compress.NewStore(func() bool { return a.memory.Level() != memory.Enough })
	var err error
	if a.certs, err = edgetls.NewManager(deps); err != nil {
		return nil, err
	}
	a.handler = proxy.NewHandler(proxy.Deps{Log: a.log, Stats: a.stats, Usage: a.countUsage(file), Memory: a.memory, Challenge: a.certs.HTTPChallenge, Tail: a.tail})
	a.server = proxy.NewServer(proxy.ServerDeps{Log: a.log, Handler: a.handler, Sweeper: a.sweeper, Memory: a.memory, Abused: a.abused, Refused: a.refused, TLS: a.listenerTLS, Secrets: quicSecrets(a.log, file.StateDir)})
	a.group = upstream.NewGroup(upstream.Deps{Log: a.log.WithField("component", "upstream"), Sweeper: a.sweeper, Sources: a.source, Identity: a.towards, StickyKey: stateKey(a.log, file.StateDir, "sticky.key", "sticky cookies won't survive a restart")})
	if file.AccessLog != nil {
		a.accessLog = linelog.New("access_log", file.AccessLog.Output, a.log)
	}
	a.traces = tracing.NewExporter(tracing.Deps{
		Log: a.log.WithField("component", "tracing"), Version: opt.Version,
		Transport: func(cas string) *http.Transport { return remote.Transport(cas, true) },
	})
	guard := waf.Deps{Log: a.log.WithField("component", "waf")}
	if file.AuditLog != nil {
		a.auditLog = linelog.New("audit_log", file.AuditLog.Output, a.log)
		guard.Audit = a.auditLog.Append
	}
	a.waf = waf.NewStore(guard)
	a.admin = admin.New(admin.Deps{Log: a.log.WithField("component", "admin"), Gateway: a, Metrics: a.metrics()})
	return a, nil
}

// stateKey is a key for what browsers keep: it names instances in sticky cookies,
// and encrypts sessions. It is kept, so that they stay over a restart; without a
// disk it lasts as long as the process.
func stateKey(log logrus.FieldLogger, dir, name, otherwise string) []byte {
	path := filepath.Join(dir, name)
	if key, err := os.ReadFile(path); err == nil && len(key) == 32 {
		return key
	}
	key := make([]byte, 32)
	rand.Read(key) // never fails (crypto/rand)
	if err := os.WriteFile(path, key, 0o600); err != nil {
		log.WithError(err).Warn(otherwise)
	}
	return key
}

// quicSecrets are QUIC's keys, the same in each process: the next one can tell
// the clients of one that has ended that their connections are gone.
func quicSecrets(log logrus.FieldLogger, dir string) *h3.Secrets {
	s, err := h3.OpenSecrets(filepath.Join(dir, "quic.key"))
	if err != nil {
		log.WithError(err).Warn("connections of HTTP/3 that a restart ends will time out at their clients")
		return h3.NewSecrets()
	}
	return s
}

// cleanups are what to do at the end, last first.
type cleanups struct {
	log  logrus.FieldLogger
	list []cleanup
}

type cleanup struct {
	name string
	do   func()
}

func (c *cleanups) add(name string, do func()) { c.list = append(c.list, cleanup{name, do}) }

func (c *cleanups) run() {
	for i := len(c.list) - 1; i >= 0; i-- {
		c.log.WithField("part", c.list[i].name).Debug("stopping")
		c.list[i].do()
	}
}

// background runs f until the cleanup cancels and awaits it.
func (c *cleanups) background(name string, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	c.add(name, func() { cancel(); <-done })
}

// Run serves until ctx ends, drains, and stops.
func (a *App) Run(ctx context.Context) error {
	signal.Ignore(syscall.SIGPIPE) // a log that nobody reads any more must not end the gateway
	ch := make(chan os.Signal, 4)
	signal.Notify(ch, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2) // what comes during the start waits
	end := &cleanups{log: a.log}
	defer end.run()
	if err := a.start(end); err != nil {
		a.handing.before.Failed(err)
		return err
	}
	a.takenOver()
	file := a.current()
	a.log.WithFields(logrus.Fields{"version": a.opt.Version, "config": a.opt.Config, "admin": file.Admin.Address}).Info("sidegate serves")
	if err := systemd.Ready(); err != nil {
		a.log.WithError(err).Warn("systemd wasn't told that the gateway is ready")
	}
	if a.opt.Ready != nil {
		a.opt.Ready()
	}
	a.handing.begin(ctx)
	a.signals(ctx, ch)
	file = a.current()
	if !a.passedOn() { // else the services are the other process's
		a.leave(file)
	}
	a.log.WithField("drain", file.Drain).Info("draining")
	a.view.setDraining()
	drain, cancel := context.WithTimeout(context.Background(), file.Drain)
	defer cancel()
	if a.passedOn() {
		a.server.Drain(drain)
	} else {
		_ = systemd.Stopping() // systemd finds out by itself
		a.server.Leave(drain, a.keepsSockets())
		a.gone()
	}
	a.log.Info("stopped")
	return nil
}

// startLog opens a log and writes it until the end; nil: there is none.
func (a *App) startLog(end *cleanups, name string, w *linelog.Writer) error {
	if w == nil {
		return nil
	}
	out, err := w.Open()
	if err != nil {
		return err
	}
	end.background(name, func(ctx context.Context) { w.Run(ctx.Done(), out) })
	return nil
}

// start brings everything up, in an order in which each part finds what it
// needs.
func (a *App) start(end *cleanups) error {
	end.background("sweeper", a.sweeper.Run)
	end.background("memory", a.watchMemory)
	end.background("traffic", a.traffic.Run)
	end.background("key sets", a.keysets.Run)
	end.add("auth services", a.services.Close)
	end.background("bans", a.bans.Run)
	end.background("quotas", a.quotas.Run)
	end.background("shared counters", a.fleet.Run)
	end.background("bans of the fleet", a.shareBans)
	stateDir := a.file.StateDir
	end.background("cache", func(ctx context.Context) {
		if a.ours(ctx) {
			a.cached.Run(ctx, a.log.WithField("component", "cache"), stateDir)
		}
	})
	end.background("purges of the fleet", a.sharePurges)
	if a.usage != nil {
		end.background("usage", func(ctx context.Context) {
			if a.ours(ctx) {
				a.usage.Run(ctx)
			}
		})
	}
	end.background("keys", a.keys.run)
	end.add("rate limits", a.keepRates)
	end.background("durable state", a.share)
	end.add("snapshots", func() { // after Run: what changed last
		if err := a.snapshots.Close(); err != nil {
			a.log.WithError(err).Warn("the last snapshots weren't written")
		}
	})
	end.background("snapshots", func(ctx context.Context) {
		if err := a.snapshots.Run(ctx); err != nil {
			a.log.WithError(err).Warn("the last snapshots weren't written")
		}
	})
	end.background("certificates", func(ctx context.Context) {
		if err := a.certs.Run(ctx); err != nil {
			a.log.WithError(err).Error("certificates aren't kept fresh any more")
		}
	})
	end.add("certificates", a.certs.Close)
	end.add("identities", a.identities.close)
	if err := a.startLog(end, "access log", a.accessLog); err != nil {
		return err
	}
	if err := a.startLog(end, "audit log", a.auditLog); err != nil {
		return err
	}
	end.background("tracing", a.traces.Run)
	end.add("pools", func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		a.group.Close(ctx)
	})
	end.background("charges", a.charges.Run) // which tells the billing services by the pools until its end
	if err := a.consul.configure(a.file.Consul); err != nil {
		return err
	}
	a.purges.SetOff(purgesShared(a.file.Consul))
	end.background("feeds", a.feed)
	end.background("services called by name", a.named.run)
	a.feeds.wait(firstFeed)
	if err := a.listenAdmin(end); err != nil {
		return err
	}
	if err := a.enforce(a.file, true); err != nil {
		return err
	}
	end.add("listeners", func() { // after a failed start; Run drains before
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		a.server.Drain(ctx)
	})
	a.admin.Serve()
	a.register(a.current(), end)
	end.background("configuration", a.watchFiles)
	end.background("watchdog", a.watchdog)
	return nil
}

// listenAdmin opens the admin server's sockets, or takes those that were passed on.
func (a *App) listenAdmin(end *cleanups) error {
	open, err := a.adminSocket(a.file.Admin.Address)
	if err != nil {
		return err
	}
	if err := a.admin.Listen(a.file.Admin.Address, a.file.Admin.Token, filepath.Join(a.file.StateDir, "admin.sock"), open, a.handing.before != nil); err != nil {
		return err
	}
	end.add("admin", func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		a.admin.Stop(ctx)
	})
	return nil
}

// signals handles the process's signals until ctx ends, or another process has
// taken over.
func (a *App) signals(ctx context.Context, ch <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			go a.lateSignals(ch) // ends with the process
			return
		case <-a.handing.over:
			go a.lateSignals(ch) // likewise
			return
		case s := <-ch:
			a.signal(ctx, s)
		}
	}
}

func (a *App) signal(ctx context.Context, s os.Signal) {
	switch s {
	case syscall.SIGUSR2:
		go func() { _, _ = a.Handover(0) }() // said in the log; ends in a bounded time
	case syscall.SIGUSR1:
		a.reopenLogs()
	default:
		a.reopenLogs()
		_ = a.Reload(ctx) // said in the log and in status
	}
}

// reopenLogs opens the logs' files again, after rotation.
func (a *App) reopenLogs() {
	if a.accessLog != nil {
		a.accessLog.Reopen()
	}
	if a.auditLog != nil {
		a.auditLog.Reopen()
	}
}

// newLog is the gateway's log.
func newLog(cfg config.LogConfig, out io.Writer) *logrus.Logger {
	l := logrus.New()
	l.SetOutput(out)
	setLog(l, cfg)
	return l
}

// setLog applies a log block. An unknown level can't come from Load.
func setLog(l *logrus.Logger, cfg config.LogConfig) {
	if level, err := logrus.ParseLevel(cfg.Level); err == nil {
		l.SetLevel(level)
	}
	if cfg.Format == "text" {
		l.SetFormatter(&logrus.TextFormatter{FullTimestamp: true})
	} else {
		l.SetFormatter(&logrus.JSONFormatter{})
	}
}

// StateDir is the state folder of a configuration, whatever else is wrong with it,
// or the default when it can't be read.
func StateDir(path string) string {
	file, _ := config.Load(path, config.Options{Kinds: kinds(means{})})
	if file.StateDir != "" {
		return file.StateDir
	}
	return "/var/lib/sidegate"
}

// Validate checks a configuration as far as that goes without touching
// anything: it is what a reload does before it commits.
func Validate(opt Options) (summary string, err error) {
	file, err := load(opt)
	if err != nil {
		return "", err
	}
	temp, err := os.MkdirTemp("", "sidegate-validate-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	dry := *file
	dry.StateDir, opt.sealDir = temp, file.StateDir
	a, err := assemble(opt, &dry)
	if err != nil {
		return "", err
	}
	a.log.SetOutput(io.Discard)
	if err := a.consul.configure(file.Consul); err != nil {
		return "", err
	}
	r, err := a.prepare(file, nil)
	if err != nil {
		return "", err
	}
	for _, w := range r.certs.Warnings() {
		fmt.Fprintln(opt.Stderr, "warning:", w)
	}
	return describe(file, r), nil
}

// describe says in a line what a configuration has.
func describe(file *config.File, r *ready) string {
	text := fmt.Sprintf("%d routes, %d services, %d listeners", len(r.table.Routes), len(r.services), len(file.Listeners))
	if len(file.Sidecars) == 0 {
		return text
	}
	var names []string
	for _, s := range file.Sidecars {
		names = append(names, s.Name)
	}
	list := fmt.Sprintf("sidecars of %s", strings.Join(names, ", "))
	if file.SidecarOnly() {
		return list
	}
	return text + ", " + list
}

// portOf is the port of a listener's address.
func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	return port
}
