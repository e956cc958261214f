package config

import (
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// Sidecar is a sidecar block: a service of this host that is registered in Consul,
// and whose requests pass here in both directions.
type Sidecar struct {
	Name string `hcl:"name,label"`
	// Where the app itself listens: host:port, on loopback, or unix:// and the path of a socket. It is registered once it takes connections.
	App string `hcl:"app,attr" required:"true"`
	// What the app speaks.
	Protocol string `hcl:"protocol,attr" default:"http1" enum:"http1|h2c"`
	// Where the sidecar takes the app's requests from others, and what Consul announces; port 0 is any free one.
	Listen string `hcl:"listen,attr" default:":0"`
	// The address to announce; the one of listen unless given, or the agent's when listen has none.
	Address string `hcl:"address,attr"`
	// What Consul's agent asks to know whether the service works, through the sidecar.
	Check SidecarCheck `hcl:"check,block"`
	// Tags of the registration.
	Tags []string `hcl:"tags,attr"`
	// Meta of the registration.
	Meta map[string]string `hcl:"meta,attr"`
	// Weights of the registration.
	Weights SidecarWeights `hcl:"weights,block"`
	// Be a member of Consul's service mesh. It isn't available yet.
	Mesh bool `hcl:"mesh,attr" default:"false"`
	// Who the service is in the fleet: requests come in by TLS with certificates of both sides, and go out with this one to services that ask for it; the identity at the top unless given, and without any, plain text.
	Identity *edgetls.IdentitySettings `hcl:"identity,block"`
	// Services whose certificates may call, with an identity; unless given, all of the certificate's trust domain.
	Allow []string `hcl:"allow,attr"`
	// Policies on what comes in.
	Use []string `hcl:"use,attr"`
	// A listener by which the app calls another service.
	Upstreams []*SidecarUpstream `hcl:"upstream,block"`
	// host:port, or unix:// and a path, of an HTTP proxy for the app, which takes requests to http://NAME.service.consul to that service; none unless given.
	Proxy string `hcl:"proxy,attr"`
	// How long the service stays at the end, in maintenance, until those who watch Consul have seen that.
	DeregisterWait time.Duration `hcl:"deregister_wait,attr" default:"3s" max:"1m"`
}

// SidecarCheck is the check block of a sidecar.
type SidecarCheck struct {
	// The path of the app that must answer 200 to 299; without it, the app must take a connection.
	HTTP string `hcl:"http,attr"`
	// Where the sidecar takes the agent's questions.
	Listen string `hcl:"listen,attr" default:"127.0.0.1:0"`
	// Time between two.
	Interval time.Duration `hcl:"interval,attr" default:"5s" min:"1s"`
	// Time for an answer.
	Timeout time.Duration `hcl:"timeout,attr" default:"2s" min:"10ms"`
	// How long it fails until the agent forgets the service; 0s: never.
	DeregisterAfter time.Duration `hcl:"deregister_after,attr" default:"10m"`
}

// SidecarWeights are the weights of a registration.
type SidecarWeights struct {
	// While all checks pass.
	Passing int `hcl:"passing,attr" default:"1" min:"1" max:"65535"`
	// While one warns.
	Warning int `hcl:"warning,attr" default:"1" min:"0" max:"65535"`
}

// SidecarUpstream is an upstream block of a sidecar. The service block of its name
// says how the service is found and called; without one, it is Consul's.
type SidecarUpstream struct {
	Name string `hcl:"name,label"`
	// host:port on loopback, or unix:// and a path.
	Listen string `hcl:"listen,attr" required:"true"`
}

// The names of a sidecar's parts, which listeners, routes and the app's service have.

// Inbound is the listener for others, its route and the app as a service.
func (s *Sidecar) Inbound() string { return sidecarPrefix + s.Name }

// Checked is the listener for Consul's agent, and its route.
func (s *Sidecar) Checked() string { return s.Inbound() + "/check" }

// Outbound is the listener for calls of an upstream, and its route.
func (s *Sidecar) Outbound(upstream string) string { return s.Inbound() + "/upstream/" + upstream }

// Proxied is the listener of the proxy for the app.
func (s *Sidecar) Proxied() string { return s.Inbound() + "/proxy" }

const sidecarPrefix = "sidecar/"

// AppService is the app as a service: one instance, which is asked whatever it did
// before, and waited for while it restarts.
func (s *Sidecar) AppService() *upstream.Config {
	c := NewService(s.Inbound())
	c.Instances, c.Protocol = []string{s.App}, s.Protocol
	c.Balance, c.PreferLocal, c.SlowStart, c.Panic = "round_robin", false, 0, 0
	c.Outlier.Errors, c.Retry.Attempts = 0, 0
	c.Patience = appPatience
	return c
}

// appPatience is how long a request waits for an app that refuses connections: what
// a quick restart takes.
const appPatience = 250 * time.Millisecond

// Calls is the service of a block as the sidecar calls it: as itself, where it has an
// identity of its own, and then by connections of its own.
func (s *Sidecar) Calls(block *upstream.Config) *upstream.Config {
	if s.Identity == nil {
		return block
	}
	c := *block
	if len(c.Instances) == 0 {
		q := upstream.ConsulQuery{Name: block.Name}
		if c.Consul != nil {
			if q = *c.Consul; q.Name == "" {
				q.Name = block.Name
			}
		}
		c.Consul = &q
	}
	c.Name = s.Inbound() + "/to/" + block.Name
	return &c
}

// SidecarOnly reports whether the file describes sidecars and no gateway: then there
// are no listeners by default, no admin server by TCP, and a state_dir for each file.
func (f *File) SidecarOnly() bool { return f.sidecarOnly }

// sidecarDefaults are those of a file that describes only sidecars.
func (d *decoder) sidecarDefaults(f *File, path string) {
	_, listens := d.places[place{f, "listener"}]
	f.sidecarOnly = len(f.Sidecars) > 0 && !listens && len(f.Routes) == 0
	if !f.sidecarOnly {
		return
	}
	if _, given := d.places[place{&f.Admin, "address"}]; !given {
		f.Admin.Address = ""
	}
	_, given := d.places[place{f, "state_dir"}]
	if dir, _ := d.opt.env("STATE_DIRECTORY"); !given && dir == "" {
		name := strings.TrimSuffix(filepath.Base(path), ".hcl")
		if filepath.Ext(path) != ".hcl" { // a folder
			name = f.Sidecars[0].Name
		}
		f.StateDir = filepath.Join(f.StateDir, "sidecars", name)
	}
}

// unixSocket reports whether an address is one, and its path.
func unixSocket(address string) (path string, ok bool) {
	return strings.CutPrefix(address, proxy.UnixPrefix)
}

// Announced is the address to register for a sidecar; "": the agent's.
func (s *Sidecar) Announced() string {
	if s.Address != "" {
		return s.Address
	}
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil || everyAddress(host) {
		return ""
	}
	return host
}

// CheckPath is the path that Consul's agent asks the sidecar for.
func (s *Sidecar) CheckPath() string {
	if s.Check.HTTP == "" {
		return "/"
	}
	return s.Check.HTTP
}
