package consul

import (
	"encoding/json"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// maxWeight is Envoy's, which Consul's own proxies keep to.
const maxWeight = 128

// entry is what we read of one element of /v1/health/service.
type entry struct {
	Node struct {
		Node, Address, Datacenter string
	}
	Service struct {
		ID, Service, Address string
		Tags                 []string
		Meta                 map[string]string
		Port                 int
		Weights              *struct{ Passing, Warning int }
	}
	Checks []check
}

type check struct {
	CheckID, Status string
}

// parse makes instances of an answer, sorted by id.
func parse(body []byte, local func(node, datacenter, address string) bool) ([]discovery.Instance, error) {
	var entries []entry
	if err := json.Unmarshal(body, &entries); err != nil {
		return nil, complain("answer can't be read: %v", err)
	}
	set := make([]discovery.Instance, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		if e.Service.ID == "" || e.Node.Node == "" {
			return nil, complain("answer can't be read: an entry without service id or node")
		}
		set = append(set, e.instance(local))
	}
	slices.SortFunc(set, func(a, b discovery.Instance) int { return strings.Compare(a.ID, b.ID) })
	return set, nil
}

// instance judges one entry. A service id is unique on its node only.
func (e *entry) instance(local func(node, datacenter, address string) bool) discovery.Instance {
	host := e.Service.Address
	if host == "" {
		host = e.Node.Address
	}
	in := discovery.Instance{
		ID:      e.Node.Node + "/" + e.Service.ID,
		Address: net.JoinHostPort(host, strconv.Itoa(e.Service.Port)),
		Node:    e.Node.Node,
		Tags:    e.Service.Tags,
		Meta:    e.Service.Meta,
	}
	in.Local = local(e.Node.Node, e.Node.Datacenter, in.Address)
	in.Health, in.Weight = e.judge()
	if host == "" || e.Service.Port < 1 || e.Service.Port > 65535 {
		in.Health = max(in.Health, discovery.Critical) // nothing to connect to
	}
	return in
}

// judge follows Consul's own proxies; a maintenance check is critical in
// Consul and told apart by its id. What isn't known is critical.
func (e *entry) judge() (discovery.Health, int) {
	health := discovery.Passing
	for _, c := range e.Checks {
		h := discovery.Critical
		switch {
		case c.Status == "passing":
			h = discovery.Passing
		case c.Status == "warning":
			h = discovery.Warning
		case c.CheckID == "_node_maintenance" || strings.HasPrefix(c.CheckID, "_service_maintenance:"):
			h = discovery.Maintenance
		}
		health = max(health, h)
	}
	weight := 1
	if w := e.Service.Weights; w != nil {
		weight = w.Passing
		if health == discovery.Warning {
			weight = w.Warning
		}
	}
	if weight < 1 {
		return max(health, discovery.Critical), 1
	}
	return health, min(weight, maxWeight)
}

// same says whether two instances are the same in everything.
func same(a, b discovery.Instance) bool {
	return a.ID == b.ID && a.Address == b.Address && a.Node == b.Node && a.Local == b.Local &&
		a.Weight == b.Weight && a.Health == b.Health &&
		slices.Equal(a.Tags, b.Tags) && maps.Equal(a.Meta, b.Meta)
}
