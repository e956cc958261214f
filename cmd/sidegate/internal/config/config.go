package config

import (
	"net/netip"
	"os"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ratelimit"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
	"github.com/sidegate-proxy/sidegate/proxy/route"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
	"github.com/sidegate-proxy/sidegate/proxy/tracing"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// File is a whole configuration, decoded. It isn't changed after Load.
type File struct {
	// The gateway's own log, on stderr.
	Log LogConfig `hcl:"log,block"`
	// One line for each request; off without this block.
	AccessLog *proxy.AccessLogConfig `hcl:"access_log,block"`
	// One line for each request in which waf has found an attack; without it there is none.
	AuditLog *proxy.AuditLogConfig `hcl:"audit_log,block"`
	// Distributed traces of requests, for an OpenTelemetry collector; without this block there are none, and traceparent passes as it comes.
	Tracing *tracing.Config `hcl:"tracing,block"`
	// Folder for certificates, the last known instances and the CLI's socket; $STATE_DIRECTORY unless given, and without it, where a file FILE.hcl has only sidecars, sidecars/FILE below the default.
	StateDir string `hcl:"state_dir,attr" default:"/var/lib/sidegate"`
	// How long a shutdown waits for requests in flight.
	Drain time.Duration `hcl:"drain,attr" default:"30s"`
	// Networks whose X-Forwarded-For, Forwarded and PROXY headers count.
	TrustedProxies []netip.Prefix `hcl:"trusted_proxies,attr"`
	// Memory that the gateway may use, the kernel's buffers aside; unless given, what the machine has. The limits of its control groups (MemoryMax and MemoryHigh of a unit, of a container) hold as well.
	// From 85 % on requests of low priority are refused, from 95 % on all new ones.
	MemoryLimit int64 `hcl:"memory_limit,attr" unit:"bytes" min:"64MiB"`
	// JSON API, metrics, health and status.
	Admin AdminConfig `hcl:"admin,block"`
	// The Consul agent to ask; without this block, the one that CONSUL_HTTP_ADDR names, else none, or with sidecars the one at 127.0.0.1:8500.
	Consul *consul.Config `hcl:"consul,block"`
	// Where the limits of all nodes count together; without this block, in Consul's KV.
	Redis *shared.RedisConfig `hcl:"redis,block"`
	// Where certificates come from.
	TLS edgetls.Settings `hcl:"tls,block"`
	// Who this process is among the fleet's services: it shows that certificate to instances that ask for it, and its sidecars ask for others'.
	Identity *edgetls.IdentitySettings `hcl:"identity,block"`
	// Sockets that clients connect to; without any: https on :443, and http on :80 that redirects to it. There are none where the files have sidecars and no routes.
	Listeners []*proxy.ListenerConfig `hcl:"listener,block"`
	// How services are found and reached; implied by their first use in a route.
	Services []*upstream.Config `hcl:"service,block"`
	// Named sets of policies that routes take with use.
	Bundles []*Bundle `hcl:"policy,block"`
	// Room for the counters of rate limits and quotas.
	Counters CountersConfig `hcl:"counters,block"`
	// Room for what cache blocks of routes store.
	Cache cache.StoreConfig `hcl:"cache,block"`
	// Room for what charge blocks of routes have charged.
	Charges charge.LedgerConfig `hcl:"charges,block"`
	// What consumers may use.
	Plans []*consumer.PlanConfig `hcl:"plan,block"`
	// The clients that the gateway knows.
	Consumers []*consumer.Config `hcl:"consumer,block"`
	// Who uses what, counted and kept; without this block it isn't.
	Usage *usage.Config `hcl:"usage,block"`
	// Services of this host that are registered in Consul and reached through the gateway, which is their sidecar.
	Sidecars []*Sidecar `hcl:"sidecar,block"`
	// Which requests go where.
	Routes []*Route `hcl:"route,block"`

	// Files are those that were read, in order; a change of one asks for a reload.
	Files []string

	ranges          map[any]hcl.Range
	external        map[place]bool
	origins         map[any]string
	impliedServices map[*upstream.Config]bool
	sidecarOnly     bool
}

// CountersConfig is the counters block.
type CountersConfig struct {
	ratelimit.StoreConfig
	quota.RoomConfig
}

// LogConfig is the log block.
type LogConfig struct {
	// Least severity that is logged.
	Level string `hcl:"level,attr" default:"info" enum:"debug|info|warn|error"`
	// The format of a line.
	Format string `hcl:"format,attr" default:"json" enum:"json|text"`
}

// AdminConfig is the admin block.
type AdminConfig struct {
	// host:port of the admin server; where the files have only sidecars, there is none unless given.
	Address string `hcl:"address,attr" default:"127.0.0.1:9901"`
	// What clients must send as a bearer token, and people log in with; needed on any address that isn't loopback, and there to change anything.
	Token secret.String `hcl:"token,attr"`
}

// Route is a route block.
type Route struct {
	route.Config
	// What callers must meet, a CEL expression over request, consumer and claims: true lets them in. Those of the bundles must hold, too.
	Authorize string `hcl:"authorize,attr"`
	// Policies of this route alone, as written; their order says nothing.
	Policies []Block `hcl:",policies"`
	Range    hcl.Range
}

// Bundle is a policy block: a named set of policies.
type Bundle struct {
	Name string `hcl:"name,label"`
	// What callers must meet, as in a route; that of the route must hold, too.
	Authorize string  `hcl:"authorize,attr"`
	Policies  []Block `hcl:",policies"`
	Range     hcl.Range
}

// Block is a policy's block in a route or a bundle.
type Block struct {
	Kind   *policy.Kind
	Config any // what Kind.Config returned, decoded
	Range  hcl.Range
}

// Options are what Load needs beside the files.
type Options struct {
	Kinds []policy.Kind               // the policies that there are
	Env   func(string) (string, bool) // nil: os.LookupEnv
}

func (o Options) env(name string) (string, bool) {
	if o.Env == nil {
		return os.LookupEnv(name)
	}
	return o.Env(name)
}

// Place says where v, a pointer to a Config in f, was written. Its Filename is
// empty for what was implied.
func (f *File) Place(v any) hcl.Range { return f.ranges[v] }

// Origin says in words where v, a pointer to a Config in f, comes from: a
// file's place, a KV key, a registration.
func (f *File) Origin(v any) string {
	if o, ok := f.origins[v]; ok {
		return o
	}
	return placeText(f.ranges[v])
}

// note keeps the places of blocks.
func (f *File) note(d *decoder) {
	if f.ranges == nil {
		f.ranges, f.external = map[any]hcl.Range{}, map[place]bool{}
	}
	for p, r := range d.places {
		if p.name == "" {
			f.ranges[p.of] = r
		}
	}
	for p := range d.external {
		f.external[p] = true
	}
}
