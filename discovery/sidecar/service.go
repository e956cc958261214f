package sidecar

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/discovery/consul"
)

// Service is one that is to be registered.
type Service struct {
	ID, Name         string // the id is the agent's, and stable; see ID
	Address          string // "": the agent's
	Port             int
	Tags             []string
	Meta             map[string]string
	Passing, Warning int // weights; both 0 is 1 and 1
	Check            Check
	DeregisterAfter  time.Duration // of a critical check; 0: never

	// Ready says whether the service could take a request now. It is asked until
	// it says yes, and only then the service is registered; nil is always yes.
	Ready func(ctx context.Context) bool
}

// Check is what the agent asks.
type Check struct {
	URL               string        // "": there is no check
	Interval, Timeout time.Duration // 10 s and 2 s unless given
}

// ID is the id of a service on its agent: the same after each start that listens
// at the same address. host is a particular one that it listens at, or "".
func ID(name, host string, port int) string {
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		host = ""
	}
	if host != "" {
		host = strings.NewReplacer(":", "-", "%", "-", "[", "", "]", "").Replace(host) + "-"
	}
	return fmt.Sprintf("%s-sidecar-%s%d", name, host, port)
}

// metaOwner is the key of a registration's meta that says whose it is.
const metaOwner = "sidegate-owner"

// registration is what the agent shall have.
func (s *Service) registration(owner string) consul.Registration {
	meta := maps.Clone(s.Meta)
	if owner != "" {
		if meta == nil {
			meta = make(map[string]string, 1)
		}
		meta[metaOwner] = owner
	}
	return consul.Registration{
		ID: s.ID, Name: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags, Meta: meta, Passing: s.Passing, Warning: s.Warning,
		CheckHTTP: s.Check.URL, Interval: s.Check.Interval, Timeout: s.Check.Timeout, DeregisterAfter: s.DeregisterAfter,
	}
}

// clone is independent of what the caller may change.
func (s Service) clone() Service {
	s.Tags, s.Meta = slices.Clone(s.Tags), maps.Clone(s.Meta)
	return s
}

// The states of a service.
const (
	Waiting    = "waiting for the app"
	Pending    = "not registered yet"
	Registered = "registered"
	Leaving    = "leaving"
	Left       = "deregistered"
)

// Status is how one service is doing.
type Status struct {
	ID, Name    string
	Address     string
	Port        int
	State       string // one of the constants
	Since       time.Time
	Health      string // of the agent's check, when last looked: passing, warning, critical; "": unknown
	Maintenance string // why somebody put it into maintenance; "": nobody did
	Error       string // why the agent doesn't have it as it should; "": it does, as far as is known
}
