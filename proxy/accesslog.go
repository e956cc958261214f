package proxy

import (
	"math/rand/v2"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/linelog"
)

// AccessLog writes one line for each exchange, as its configuration has it.
type AccessLog struct {
	*linelog.Writer
	sample    float64
	append    appender
	responses []string // header fields of responses to keep until the line is written
}

// appender appends a part of a line to b. It allocates nothing.
type appender func(b []byte, x *exchange.Exchange, end time.Time) []byte

// Credentials are the names of what may hold one, and so is in no line.
type Credentials struct {
	Headers []string // of requests
	Query   []string // parameters
}

// NewAccessLog returns a log whose lines go to w. What is wrong with the
// configuration CheckAccessField tells; fields that it refuses are left out.
func NewAccessLog(cfg AccessLogConfig, c Credentials, w *linelog.Writer) *AccessLog {
	l := &AccessLog{Writer: w, sample: cfg.Sample}
	q := newRedactor(cfg.Redact, c.Query)
	if cfg.Format == "combined" {
		l.append = combined(q)
		return l
	}
	l.append, l.responses = jsonLine(cfg.Fields, q, c.Headers)
	return l
}

// Log adds the line of a finished exchange.
func (l *AccessLog) Log(x *exchange.Exchange, end time.Time) {
	if l.sample < 1 && x.Status < 500 && rand.Float64() >= l.sample {
		return
	}
	l.Append(x.Conn.Shard, func(b []byte) []byte { return l.append(b, x, end) })
}

// keep keeps what lines say of the response's head, which is gone when they are
// written.
func (l *AccessLog) keep(x *exchange.Exchange) {
	for _, name := range l.responses {
		x.Logged = append(x.Logged, x.Keep([]byte(responseField(x, name))))
	}
}

// responseField is a field of the response as the client got it; "" without one.
func responseField(x *exchange.Exchange, name string) string {
	id := exchange.Lookup(name)
	for i := range x.ResponseEdits.Len() {
		if x.ResponseEdits.ID(i) != id {
			continue
		}
		if n, value, ok := x.ResponseEdits.Field(i); ok && exchange.EqualFold(n, name) {
			return value
		}
	}
	if x.ResponseEdits.Replaces(name, id) {
		return ""
	}
	value, _ := x.Response.Find(name)
	return value
}
