package proxy

import "time"

// Config structs carry the configuration language. The tags, read by
// cmd/sidegate/internal/config and by the reference generator:
//
//	hcl:"name,attr|block|label"   argument, nested block (pointer: at most one; slice: any number), label
//	required:"true"               must be given
//	default:"…"                   the value without the argument, as it is written in the file
//	enum:"a|b"                    the only values (of a list: of its elements)
//	min:"1" max:"2"               bounds of a number, duration or size
//	unit:"bytes"                  an int64 written as a size, "10MiB"
//
// A string whose argument ends in _file, or that has unit:"file", is the path of a
// file that must be readable; one that is relative to the configuration's folder
// arrives absolute.
//
// The doc comment of a field is its text in the reference.

// ListenerConfig is a listener block: a socket that clients connect to.
type ListenerConfig struct {
	Name string `hcl:"name,label"`
	// Address and port to listen on; without a host, all addresses.
	Address string `hcl:"address,attr" required:"true"`
	// Terminate TLS. Without it h2 means HTTP/2 by prior knowledge (h2c).
	TLS bool `hcl:"tls,attr" default:"true"`
	// Protocols to speak; unless given h1, h2 and h3 with TLS (no h3 with proxy_protocol), h1 and h2 without.
	// h3 opens the same UDP port and is announced with Alt-Svc; for much traffic over it, let the kernel give large buffers: net.core.rmem_max and net.core.wmem_max at 7340032.
	Protocols []string `hcl:"protocols,attr" enum:"h1|h2|h3"`
	// Take TLS early data (0-RTT) over HTTP/3: clients that come back save a round trip.
	// Only GET, HEAD and OPTIONS are served from it, with Early-Data: 1, upon which a backend may say 425; a ticket is good for it once, within an hour.
	// Off unless given, since what is sent so has weaker forward secrecy; not with client_ca_file.
	EarlyData bool `hcl:"early_data,attr" default:"false"`
	// Ask for client certificates signed by the authorities in this PEM file.
	ClientCAFile string `hcl:"client_ca_file,attr"`
	// Require a PROXY protocol header (v1 or v2), from trusted_proxies only.
	ProxyProtocol bool `hcl:"proxy_protocol,attr" default:"false"`
	// Answer every request with a redirect to https, ACME challenges aside.
	RedirectHTTPS bool `hcl:"redirect_https,attr" default:"false"`
	// Bounds on what a client may send, and how slowly.
	Limits *ListenerLimits `hcl:"limits,block"`

	Peers *Peers // no argument: who may connect to a listener of a sidecar; nil: not one's
}

// Peers says who is on the other side of a sidecar's listener.
type Peers struct {
	// Local: the sidecar's own app, whose word about the client counts.
	Local bool
	// Identity names that of the fleet by which the listener asks for certificates,
	// and the word of those who have one counts; "": it asks for none.
	Identity string
	Allow    []string // the services that may come, with an identity; none: all of the fleet
}

// ListenerLimits bounds what the clients of a listener may send.
type ListenerLimits struct {
	// Largest request head: request line and all fields.
	Headers int64 `hcl:"headers,attr" unit:"bytes" default:"32KiB" min:"1KiB" max:"1MiB"`
	// Largest number of header fields.
	Fields int `hcl:"fields,attr" default:"100" min:"10" max:"1000"`
	// Longest request target.
	URI int64 `hcl:"uri,attr" unit:"bytes" default:"8KiB" min:"256B" max:"256KiB"`
	// Time for a complete request head, from its first byte.
	HeaderTimeout time.Duration `hcl:"header_timeout,attr" default:"10s" min:"100ms"`
	// Time in which some byte must move while a body is read or a response is written.
	StallTimeout time.Duration `hcl:"stall_timeout,attr" default:"60s" min:"1s"`
	// Time that a connection may wait for its next request.
	IdleTimeout time.Duration `hcl:"idle_timeout,attr" default:"2m" min:"1s"`
	// Connections at a time on this listener.
	Connections int `hcl:"connections,attr" default:"50000" min:"1"`
	// Connections at a time from one client, of all protocols together: an address, or with IPv6 a /64.
	ConnectionsPerIP int `hcl:"connections_per_ip,attr" default:"1024" min:"1"`
	// HTTP/2 and HTTP/3 requests at a time on one connection.
	Streams int `hcl:"streams,attr" default:"128" min:"1" max:"10000"`
}

// AccessLogConfig is the access_log block: one line for each request. A reload changes all but its output.
type AccessLogConfig struct {
	// stdout, stderr or the path of a file or a named pipe; a file is opened again on SIGUSR1 and SIGHUP.
	Output string `hcl:"output,attr" default:"stdout"`
	// The format of a line: a JSON object, or Apache's combined log format.
	Format string `hcl:"format,attr" default:"json" enum:"json|combined"`
	// What is in a JSON line, in this order, header.NAME for a field of the request and response.NAME for one of the response among it; unless given, all that has a value but header fields, query, referer, scheme, listener, peer_ip, plan, tls_version and tls_cipher.
	// Fields with credentials are refused: Authorization, Cookie, Set-Cookie and those that auth reads keys from.
	Fields []string `hcl:"fields,attr"`
	// Query parameters whose values are written as ***, in the query and in Referer; those that auth reads keys from always are.
	Redact []string `hcl:"redact,attr" default:"[\"*\"]"`
	// Share of the requests that are logged; failed ones (5xx) always are.
	Sample float64 `hcl:"sample,attr" default:"1.0" min:"0" max:"1"`
}

// AuditLogConfig is the audit_log block: one JSON line for each request in which
// waf has found an attack, with the rules and where they matched, never with
// what stands there.
type AuditLogConfig struct {
	// stdout, stderr or a file's path; a file is opened again on SIGUSR1.
	Output string `hcl:"output,attr" default:"stderr"`
}
