package exchange

import "fmt"

// Source is who caused a fault.
type Source uint8

// The sources of a fault.
const (
	FromClient Source = iota + 1
	FromPolicy
	FromUpstream
	FromInternal
)

// String is the source as logs and metrics name it.
func (s Source) String() string {
	switch s {
	case FromClient:
		return "client"
	case FromPolicy:
		return "policy"
	case FromUpstream:
		return "upstream"
	default:
		return "internal"
	}
}

// Kind is what went wrong; its text is stable: it is in metrics, and the last
// part of a problem's type. proxy/errors.go maps it to a status.
type Kind string

// The kinds of faults.
const (
	// Of the client.
	Malformed        Kind = "malformed-request"        // 400
	BadPath          Kind = "unacceptable-path"        // 400
	BadHost          Kind = "unacceptable-host"        // 400
	HeadersTooLarge  Kind = "headers-too-large"        // 431
	URITooLong       Kind = "uri-too-long"             // 414
	BodyTooLarge     Kind = "body-too-large"           // 413
	UnsupportedMedia Kind = "unsupported-media-type"   // 415
	ClientTimeout    Kind = "request-timeout"          // 408
	ClientGone       Kind = "client-closed-request"    // 499, in the log only
	Misdirected      Kind = "misdirected-request"      // 421
	Expectation      Kind = "expectation-failed"       // 417
	NotImplemented   Kind = "not-implemented"          // 501
	Version          Kind = "http-version-unsupported" // 505
	TooEarly         Kind = "too-early"                // 425
	NotInAPI         Kind = "not-in-api"               // 404
	Invalid          Kind = "invalid-request"          // 400

	// Of the routing table.
	NoRoute          Kind = "no-route"           // 404
	MethodNotAllowed Kind = "method-not-allowed" // 405
	RouteEnded       Kind = "route-ended"        // 410

	// Of access control.
	Unauthenticated  Kind = "unauthenticated"   // 401
	Forbidden        Kind = "forbidden"         // 403
	RateLimited      Kind = "rate-limited"      // 429
	QuotaExceeded    Kind = "quota-exceeded"    // 429
	LimitUnavailable Kind = "limit-unavailable" // 503
	AuthUnavailable  Kind = "auth-unavailable"  // 503

	// Of what a request costs.
	PaymentRequired   Kind = "payment-required"   // 402
	ChargeUnavailable Kind = "charge-unavailable" // 503

	// Of a backend.
	NoInstance       Kind = "no-instance"            // 503
	Overloaded       Kind = "service-overloaded"     // 503
	ConnectFailed    Kind = "backend-unreachable"    // 502
	BackendReset     Kind = "backend-reset"          // 502
	BackendMalformed Kind = "backend-malformed"      // 502
	BackendTimeout   Kind = "backend-timeout"        // 504
	DeadlineExceeded Kind = "deadline-exceeded"      // 504
	UpgradeRefused   Kind = "backend-upgrade-failed" // 502

	// Ours.
	Internal          Kind = "internal-error"     // 500
	ShuttingDown      Kind = "shutting-down"      // 503
	GatewayOverloaded Kind = "gateway-overloaded" // 503
)

// Breach reports whether a client caused the fault by the form of its request:
// what no client in earnest sends again and again.
func (f *Fault) Breach() bool {
	switch f.Kind {
	case Malformed, BadPath, BadHost, HeadersTooLarge, URITooLong:
		return true
	default:
		return false
	}
}

// Fault is an error of an exchange: who caused it, of what kind, and why. Err
// goes to the log, never to the client.
type Fault struct {
	Source   Source
	Kind     Kind
	Err      error
	Findings []Finding // what the client is told about its request; nil: no more than the kind
}

// Finding is something that is wrong with a request, told to the client: where,
// and what it has to be instead. It holds no value that came with the request.
type Finding struct{ Where, What string }

// NewFault returns a fault with a formatted reason.
func NewFault(s Source, k Kind, format string, args ...any) *Fault {
	return &Fault{Source: s, Kind: k, Err: fmt.Errorf(format, args...)}
}

func (f *Fault) Error() string {
	if f.Err == nil {
		return string(f.Kind)
	}
	return string(f.Kind) + ": " + f.Err.Error()
}

func (f *Fault) Unwrap() error { return f.Err }
