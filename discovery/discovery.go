// Package discovery says where the instances of services are.
//
// It holds the words that all sources share (Instance, Query, Source, Claim)
// and the sources that need no server: fixed addresses and the snapshots that
// keep the last known instances on disk. Package consul below it asks a Consul
// agent. It doesn't balance, check health or connect: that is proxy/upstream.
package discovery

import (
	"context"
	"strings"
)

// Health is what a source says of an instance.
type Health uint8

// The states, from good to bad. Critical and Maintenance get no requests.
const (
	Passing Health = iota
	Warning
	Critical
	Maintenance
)

// String is the state as status and metrics name it.
func (h Health) String() string {
	switch h {
	case Passing:
		return "passing"
	case Warning:
		return "warning"
	case Critical:
		return "critical"
	default:
		return "maintenance"
	}
}

// Instance is one running copy of a service.
type Instance struct {
	ID      string // unique in its service; stable while it runs
	Address string // host:port
	Node    string // the host it runs on, as the source names it
	Local   bool   // it runs on this host
	Weight  int    // 1 to 128; its share beside the others
	Health  Health
	Tags    []string
	Meta    map[string]string
}

// Query names a set of instances.
type Query struct {
	Service     string
	Tags        []string // an instance has all of them
	Filter      string   // in the source's own language
	Datacenters []string // first the preferred one that has instances; none: the source's own
}

// String is the query in words, for logs and status.
func (q Query) String() string {
	s := q.Service
	if len(q.Tags) > 0 {
		s += " tags " + strings.Join(q.Tags, ",")
	}
	if q.Filter != "" {
		s += " filter " + q.Filter
	}
	if len(q.Datacenters) > 0 {
		s += " in " + strings.Join(q.Datacenters, ",")
	}
	return s
}

// Source finds instances.
type Source interface {
	// Watch calls update with the full set of instances (critical ones
	// included) whenever it changes, first as soon as it is known, until ctx
	// ends. The set is the callee's to keep. A source reports all or nothing:
	// on an error it keeps quiet, and so the last set stays, and tries again
	// with a jittered back-off. It reports an empty set only when it was told
	// so without an error. Watch returns nil when ctx ends, and an error only
	// when trying again is pointless.
	Watch(ctx context.Context, q Query, update func([]Instance)) error
}

// Claim is what an instance's registration says of the routes it wants.
type Claim struct {
	Service  string // the service's name at the source
	Instance string // the instance's id
	Route    string // the route's name within the service; "" for the only one
	Hosts    []string
	Paths    []string
	Use      []string // policy bundles
	Strip    string   // prefix to cut off
	Protocol string   // "" or a value of a service's protocol argument
	Weight   int      // 0: not said
	Redirect string   // Fabio's redirect=CODE,URL: the URL
	Status   int      // and the code
}

// Problem is a part of a registration that makes no sense. It is reported, and
// harms only the instance that has it.
type Problem struct {
	Service, Instance, Text string
}
