package consul

import "github.com/sidegate-proxy/sidegate/proxy/secret"

// Config is the consul block: the agent to ask. Arguments that aren't given
// come from CONSUL_HTTP_ADDR and its like.
type Config struct {
	// host:port, http://…, https://… or unix:///path of the agent.
	Address string `hcl:"address,attr"`
	// ACL token.
	Token secret.String `hcl:"token,attr"`
	// Datacenter to ask; the agent's own unless given.
	Datacenter string `hcl:"datacenter,attr"`
	// Authorities of an https agent, PEM.
	CAFile string `hcl:"ca_file,attr"`
	// Our certificate for it, PEM.
	CertFile string `hcl:"cert_file,attr"`
	// Its key, PEM.
	KeyFile string `hcl:"key_file,attr"`
	// Prefix in Consul's KV under which routes, services, policies and consumers may live.
	KV string `hcl:"kv,attr" default:"sidegate/"`
	// What registrations may claim by themselves; without this block, nothing.
	Expose *ExposeConfig `hcl:"expose,block"`
}

// ExposeConfig is an expose block.
type ExposeConfig struct {
	// Hosts that registrations may claim: exact or *.example.com.
	Hosts []string `hcl:"hosts,attr" required:"true"`
	// Policy bundles put on each such route.
	Use []string `hcl:"use,attr"`
}
