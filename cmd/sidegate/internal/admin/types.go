package admin

import (
	"time"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// Status is the gateway at a glance.
type Status struct {
	Version     string                 `json:"version"`
	Started     time.Time              `json:"started"`
	PID         int                    `json:"pid"`
	Config      ConfigStatus           `json:"config"`
	Ready       Readiness              `json:"ready"`
	Listeners   []proxy.ListenerStatus `json:"listeners"`
	Services    []upstream.PoolStatus  `json:"services"`
	Stale       []string               `json:"stale,omitempty"` // services whose instances are the last known ones
	Consul      *ConsulStatus          `json:"consul,omitempty"`
	Memory      memory.Status          `json:"memory"`
	Certificate []edgetls.CertStatus   `json:"certificates"`
	Issuers     []IssuerStatus         `json:"issuers,omitempty"`
	Consumers   *ConsumersStatus       `json:"consumers,omitempty"`
	Counters    *CountersStatus        `json:"shared_counters,omitempty"`
	Charges     *ChargesStatus         `json:"charges,omitempty"`
	Auth        []AuthStatus           `json:"auth_services,omitempty"`
	Usage       *usage.Status          `json:"usage,omitempty"`
	Problems    []Problem              `json:"problems"`
	Routes      int                    `json:"routes"`
}

// ConfigStatus is the configuration in force, and the last one that was
// rejected.
type ConfigStatus struct {
	Path       string    `json:"path"`
	Loaded     time.Time `json:"loaded"`
	Reloads    int       `json:"reloads"`
	Rejected   time.Time `json:"rejected,omitzero"`
	RejectedBy string    `json:"rejected_by,omitempty"` // why the newest files aren't in force
	Changes    []Change  `json:"changes,omitempty"`     // the last twenty, newest first
}

// Change is a configuration that was put in force, or wasn't.
type Change struct {
	Time  time.Time `json:"time"`
	What  string    `json:"what"`            // loaded, rejected, routes: by Consul
	Error string    `json:"error,omitempty"` // why it was rejected, with places
}

// Handover is a new process that has taken over.
type Handover struct {
	Version string `json:"version"` // of the new process
	PID     int    `json:"pid"`
	Old     int    `json:"old"` // the process that drains
}

// Readiness says whether requests should be sent here.
type Readiness struct {
	Ready  bool   `json:"ready"`
	Reason string `json:"reason,omitempty"` // why not, or what is degraded
}

// ConsulStatus is the state of discovery.
type ConsulStatus struct {
	Address   string        `json:"address"`
	Connected bool          `json:"connected"`
	Age       time.Duration `json:"age_ns"` // since Consul last answered
	Error     string        `json:"error,omitempty"`
	Watches   int           `json:"watches"`
}

// IssuerStatus is an issuer of tokens, and how its keys are.
type IssuerStatus struct {
	Issuer  string        `json:"issuer"`
	JWKS    string        `json:"jwks,omitempty"` // "": by discovery
	Keys    int           `json:"keys"`
	Fetched time.Time     `json:"fetched,omitzero"`
	Age     time.Duration `json:"age_ns"`
	Error   string        `json:"error,omitempty"` // of the last fetch
}

// ConsumersStatus is how consumers and keys are that stand in no file.
type ConsumersStatus struct {
	Beside       int           `json:"consumers"` // that stand in no file
	KeysInConsul int           `json:"keys_in_consul"`
	KeysOnDisk   int           `json:"keys_on_disk"`
	Stale        bool          `json:"stale"`  // Consul is away: these are the last known
	Age          time.Duration `json:"age_ns"` // since it was there
	Untold       int           `json:"untold"` // revocations that Consul hasn't heard of
}

// CountersStatus is where the nodes count together.
type CountersStatus struct {
	In    string    `json:"in"` // redis ADDRESS, or consul
	Up    bool      `json:"up"`
	Since time.Time `json:"down_since,omitzero"`
	Error string    `json:"error,omitempty"`
}

// AuthStatus is a service that decides who may call.
type AuthStatus struct {
	URL      string    `json:"url"`
	Requests uint64    `json:"requests"`
	Failures uint64    `json:"failures"`
	InFlight int       `json:"in_flight"`
	Failed   time.Time `json:"failed,omitzero"` // when a request last had no answer
	Error    string    `json:"error,omitempty"` // of the last request
}

// Problem is something that was isolated rather than fatal: a bad tag, a
// conflict, a KV entry that doesn't parse.
type Problem struct {
	Where string `json:"where"`
	Text  string `json:"text"`
}

// RouteStatus is one host and path of a route, in the order of precedence.
type RouteStatus struct {
	Name       string   `json:"name"`
	Origin     string   `json:"origin"`
	Host       string   `json:"host"` // "": every host
	Path       string   `json:"path"` // "": every path
	Conditions string   `json:"conditions,omitempty"`
	Policies   []string `json:"policies,omitempty"`
	To         string   `json:"to"`
}

// Question is a request that isn't sent.
type Question struct {
	Method  string
	URL     string
	Headers map[string]string
	Client  string // address; "": 127.0.0.1
}

// Explanation is what would become of it.
type Explanation struct {
	Method     string               `json:"method"`
	Scheme     string               `json:"scheme"`
	Host       string               `json:"host"`
	Path       string               `json:"path"` // canonical
	Refused    string               `json:"refused,omitempty"`
	Status     int                  `json:"status,omitempty"` // when the gateway answers by itself
	Route      string               `json:"route,omitempty"`
	Origin     string               `json:"origin,omitempty"`
	Priority   string               `json:"priority,omitempty"`
	Candidates []CandidateStatus    `json:"candidates"`
	Policies   []string             `json:"policies"`
	Forwarded  string               `json:"forwarded_path,omitempty"`
	Services   []ServiceExplanation `json:"services"`
	Listener   string               `json:"listener,omitempty"`
}

// CandidateStatus is a route that was looked at.
type CandidateStatus struct {
	Route   string `json:"route"`
	Matches bool   `json:"matches"`
	Why     string `json:"why"`
}

// ServiceExplanation is a service that might answer.
type ServiceExplanation struct {
	Share string `json:"share,omitempty"` // of the route's requests; "": all
	upstream.Explanation
}
