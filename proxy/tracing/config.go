package tracing

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// Config is the tracing block.
type Config struct {
	// URL of a collector that takes OTLP over HTTP; /v1/traces is added unless it ends so.
	Endpoint string `hcl:"endpoint,attr" required:"true"`
	// Share of the traces that begin here, or with a client that isn't in trusted_proxies, that are recorded; trusted proxies decide for theirs.
	Sample float64 `hcl:"sample,attr" default:"0.01" min:"0" max:"1"`
	// What the gateway is called in traces: service.name.
	ServiceName string `hcl:"service_name,attr" default:"sidegate"`
	// Header fields for the collector, to authenticate with.
	Headers map[string]secret.String `hcl:"headers,attr" hidden:"true"`
	// Root certificates in PEM for the collector, in the place of the system's.
	CAFile string `hcl:"ca_file,attr"`
	// Time for the collector to take one batch of spans.
	Timeout time.Duration `hcl:"timeout,attr" default:"10s" min:"100ms" max:"60s"`
}

const tracesPath = "/v1/traces"

// Validate says what is wrong.
func (c *Config) Validate() error {
	var errs error
	if u, err := url.Parse(c.Endpoint); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		errs = fmt.Errorf("endpoint: %.200q isn't an http or https URL", c.Endpoint)
	} else if u.User != nil || u.Fragment != "" || u.RawQuery != "" {
		errs = fmt.Errorf("endpoint: %.200q has more than host and path; credentials go into headers", u.Redacted())
	}
	names := make([]string, 0, len(c.Headers))
	for name := range c.Headers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		switch id := exchange.Lookup(name); {
		case !exchange.IsToken(name):
			errs = errors.Join(errs, fmt.Errorf("headers: %q isn't the name of a header field", name))
		case id.HopByHop() || id == exchange.Host || id == exchange.ContentLength || id == exchange.ContentType || id == exchange.ContentEncoding:
			errs = errors.Join(errs, fmt.Errorf("headers: %q has a meaning of its own", name))
		}
		if v := c.Headers[name].Reveal(); strings.ContainsFunc(v, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			errs = errors.Join(errs, fmt.Errorf("headers: the value of %q has a control character", name))
		}
	}
	return errs
}

// address is where traces are sent to.
func (c *Config) address() string {
	if strings.HasSuffix(c.Endpoint, tracesPath) {
		return c.Endpoint
	}
	return strings.TrimSuffix(c.Endpoint, "/") + tracesPath
}

// settings are those of a configuration, ready for use. They never change.
type settings struct {
	url      string
	headers  map[string]secret.String
	cas      string
	timeout  time.Duration
	resource []byte // field 1 of ResourceSpans
}

func newSettings(c Config, cas, version string) *settings {
	host, _ := os.Hostname() // traces go without it
	return &settings{
		url: c.address(), headers: c.Headers, cas: cas, timeout: cmp.Or(c.Timeout, 10*time.Second),
		resource: resource(cmp.Or(c.ServiceName, "sidegate"), version, host),
	}
}
