package upstream

import "time"

// Config is a service block: how a service is found and reached.
type Config struct {
	Name string `hcl:"name,label"`
	// Find the instances in Consul; without this block and instances, the service of the same name.
	Consul *ConsulQuery `hcl:"consul,block"`
	// Fixed instances, host:port, or unix:// and the path of a socket.
	Instances []string `hcl:"instances,attr"`
	// How to speak to the instances: h2c is HTTP/2 without TLS, https is HTTP/1.1 over TLS, h2 is HTTP/2 over TLS.
	Protocol string `hcl:"protocol,attr" default:"http1" enum:"http1|h2c|https|h2"`
	// When to speak mTLS as this process, by its identity block, and to check that the instance is this service: auto, to instances whose registration says so (sidecars with an identity); required, to all, so that no registration can ask for plain text.
	Identity string `hcl:"identity,attr" default:"auto" enum:"auto|required"`
	// How to choose an instance. ewma: the better of two by latency and load.
	Balance string `hcl:"balance,attr" default:"ewma" enum:"ewma|round_robin|least_request|random|hash"`
	// What to hash with balance = "hash": header:NAME, cookie:NAME, query:NAME, client_ip or consumer.
	HashBy string `hcl:"hash_by,attr"`
	// Prefer instances on this host; others get requests when these fail or are full.
	PreferLocal bool `hcl:"prefer_local,attr" default:"true"`
	// Time in which a new or recovered instance reaches its full share.
	SlowStart time.Duration `hcl:"slow_start,attr" default:"10s"`
	// Share of healthy instances below which health is ignored, so that the few left aren't overrun.
	Panic float64 `hcl:"panic,attr" default:"0.3" min:"0" max:"1"`
	// Keep a client with its instance.
	Sticky *StickyConfig `hcl:"sticky,block"`
	// Ask the instances how they are, on top of Consul's checks.
	HealthCheck *HealthCheckConfig `hcl:"health_check,block"`
	// Take failing instances out for a while.
	Outlier *OutlierConfig `hcl:"outlier,block"`
	// Bounds for one instance.
	Limits *LimitsConfig `hcl:"limits,block"`
	// Time limits.
	Timeouts *TimeoutsConfig `hcl:"timeouts,block"`
	// When to try again.
	Retry *RetryConfig `hcl:"retry,block"`
	// TLS towards the instances, with protocol https or h2.
	TLS *TLSConfig `hcl:"tls,block"`

	// No argument: how long a connection that is refused is tried again, as a
	// sidecar's app may be restarting; one that was away for longer isn't waited for.
	Patience time.Duration
}

// ConsulQuery is a consul block in a service.
type ConsulQuery struct {
	// The service's name in Consul; the block's label unless given.
	Name string `hcl:"name,attr"`
	// Tags that an instance must have, all of them.
	Tags []string `hcl:"tags,attr"`
	// A Consul filter expression, on the server's side.
	Filter string `hcl:"filter,attr"`
	// Datacenters, first the preferred; the agent's own unless given.
	Datacenters []string `hcl:"datacenters,attr"`
}

// StickyConfig is a sticky block.
type StickyConfig struct {
	// The cookie that names the instance (opaquely).
	Cookie string `hcl:"cookie,attr" required:"true"`
}

// HealthCheckConfig is a health_check block.
type HealthCheckConfig struct {
	// The kind of check; http unless only tcp or grpc is asked for.
	Type string `hcl:"type,attr" default:"http" enum:"http|tcp|grpc"`
	// The path that must answer 200 to 399.
	Path string `hcl:"path,attr" default:"/"`
	// The Host field; the instance's address unless given.
	Host string `hcl:"host,attr"`
	// The service that a grpc check asks for.
	Service string `hcl:"service,attr"`
	// Time between checks, with a jitter of 10 %.
	Interval time.Duration `hcl:"interval,attr" default:"5s" min:"100ms"`
	// Time for an answer.
	Timeout time.Duration `hcl:"timeout,attr" default:"2s" min:"10ms"`
	// Good checks in a row until an instance is healthy again.
	Rise int `hcl:"rise,attr" default:"2" min:"1"`
	// Bad checks in a row until it is unhealthy.
	Fall int `hcl:"fall,attr" default:"3" min:"1"`
}

// OutlierConfig is an outlier block.
type OutlierConfig struct {
	// Failures (connect, reset, timeout, 502, 503, 504) in a row within window that eject; 0: never.
	Errors int `hcl:"errors,attr" default:"5" min:"0"`
	// Time that the failures must fall into.
	Window time.Duration `hcl:"window,attr" default:"10s" min:"100ms"`
	// How long, times the number of ejections so far, at most 10 times.
	Eject time.Duration `hcl:"eject,attr" default:"30s" min:"100ms"`
	// Largest share of instances that may be ejected at a time.
	MaxEjected float64 `hcl:"max_ejected,attr" default:"0.5" min:"0" max:"1"`
}

// LimitsConfig is a limits block in a service.
type LimitsConfig struct {
	// Connections to one instance.
	Connections int `hcl:"connections,attr" default:"1024" min:"1"`
	// Requests in flight at one instance.
	Requests int `hcl:"requests,attr" default:"1024" min:"1"`
	// Requests that wait for an instance with room; beyond them: 503.
	Queue int `hcl:"queue,attr" default:"128" min:"0"`
	// Let the latency say how many requests the service as a whole works on at once: beyond that, 503 at once, low priority first. It isn't for services whose answers wait on purpose (long polling).
	Adaptive bool `hcl:"adaptive,attr" default:"false"`
}

// TimeoutsConfig is a timeouts block.
type TimeoutsConfig struct {
	// Time for a connection, TLS included.
	Connect time.Duration `hcl:"connect,attr" default:"2s" min:"1ms"`
	// Time from the request's end to the response's head.
	FirstByte time.Duration `hcl:"first_byte,attr" default:"30s"`
	// Time in which some byte must move, in a response, a request's body or a tunnel.
	Idle time.Duration `hcl:"idle,attr" default:"60s"`
	// Time for the whole exchange; 0s: no limit.
	Total time.Duration `hcl:"total,attr" default:"0s"`
}

// RetryConfig is a retry block.
type RetryConfig struct {
	// Further tries, on other instances; 0: none.
	Attempts int `hcl:"attempts,attr" default:"2" min:"0" max:"10"`
	// What to try again: connect, reset, timeout, or a status. All but connect only when the request is idempotent.
	On []string `hcl:"on,attr" default:"[\"connect\", \"reset\", \"502\", \"503\", \"504\"]" enum:"connect|reset|timeout|500|502|503|504|429"`
	// Largest share of further tries among all requests of the last ten seconds; thirty are always allowed.
	Budget float64 `hcl:"budget,attr" default:"0.2" min:"0" max:"1"`
}

// TLSConfig is a tls block in a service.
type TLSConfig struct {
	// The name to ask for and to verify; the request's host unless given.
	ServerName string `hcl:"server_name,attr"`
	// Authorities to trust instead of the system's, PEM.
	CAFile string `hcl:"ca_file,attr"`
	// Our certificate, PEM.
	CertFile string `hcl:"cert_file,attr"`
	// Its key, PEM.
	KeyFile string `hcl:"key_file,attr"`
	// Don't verify. A warning says so at each load.
	Insecure bool `hcl:"insecure,attr" default:"false"`
}
