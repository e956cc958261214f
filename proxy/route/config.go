package route

// Config is a route block: which requests it takes, and where they go.
type Config struct {
	Name string `hcl:"name,label"`
	// Host names: exact, or *.example.com for any name below example.com. None: every host.
	Hosts []string `hcl:"hosts,attr"`
	// Paths: exact (/healthz), a prefix (/orders/*), or with parameters (/orders/{id}/items). None: every path.
	Paths []string `hcl:"paths,attr"`
	// Methods; GET takes HEAD, too. None: every method.
	Methods []string `hcl:"methods,attr"`
	// Header fields that must match: exact, * at either end, or "~" and an RE2 expression.
	Headers map[string]string `hcl:"headers,attr"`
	// Query parameters that must match, written like headers.
	Query map[string]string `hcl:"query,attr"`
	// A CEL condition over the request.
	When string `hcl:"when,attr"`

	// The service that answers. Exactly one of service, split, redirect, respond and usage is given.
	Service string `hcl:"service,attr"`
	// Services and their shares of the requests.
	Split map[string]int `hcl:"split,attr" min:"0"`
	// Answer with a redirect.
	Redirect *RedirectConfig `hcl:"redirect,block"`
	// Answer with a fixed response.
	Respond *RespondConfig `hcl:"respond,block"`

	// Answer consumers with what they have used themselves, and what is left of their quotas; needs auth, and a usage block at the top.
	Usage *UsageConfig `hcl:"usage,block"`

	// Names of policy bundles.
	Use []string `hcl:"use,attr"`
	// Prefix to cut off the path before it is forwarded; the match stays on the original path.
	StripPrefix string `hcl:"strip_prefix,attr"`
	// Send a copy of some requests to another service, and drop its answers.
	Mirror *MirrorConfig `hcl:"mirror,block"`
	// What is shed first when not everything can be served: by a service with adaptive limits, and when memory runs out. A plan's or consumer's holds in its place.
	Priority string `hcl:"priority,attr" default:"normal" enum:"low|normal|high"`
	// Announce the end of this route to its clients.
	Sunset *SunsetConfig `hcl:"sunset,block"`
}

// RedirectConfig is a redirect block.
type RedirectConfig struct {
	// Where to; {scheme}, {host}, {path}, {query} (with its "?") and {NAME} of a path parameter are replaced.
	To string `hcl:"to,attr" required:"true"`
	// The status.
	Status int `hcl:"status,attr" default:"308" enum:"301|302|303|307|308"`
}

// RespondConfig is a respond block.
type RespondConfig struct {
	// The status.
	Status int `hcl:"status,attr" default:"200" min:"200" max:"599"`
	// The body.
	Body string `hcl:"body,attr"`
	// Header fields; Content-Type is text/plain; charset=utf-8 unless given.
	Headers map[string]string `hcl:"headers,attr"`
}

// UsageConfig is a usage block of a route. It has no arguments.
type UsageConfig struct{}

// MirrorConfig is a mirror block.
type MirrorConfig struct {
	// The service that gets the copies.
	Service string `hcl:"service,attr" required:"true"`
	// Share of the requests, in percent.
	Percent float64 `hcl:"percent,attr" default:"100" min:"0" max:"100"`
}

// SunsetConfig is a sunset block (RFC 8594; RFC 9745 for Deprecation).
type SunsetConfig struct {
	// The day on which the route ends, 2027-06-30; from then on it answers 410.
	Date string `hcl:"date,attr" required:"true"`
	// The day from which it is deprecated.
	Deprecated string `hcl:"deprecated,attr"`
	// A page that says what to do.
	Link string `hcl:"link,attr"`
}
