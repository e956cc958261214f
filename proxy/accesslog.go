package proxy

import (
	"cmp"
	"math/rand/v2"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/linelog"
)

// AccessLog writes one JSON line for each exchange, in the shape of logrus's
// JSON formatter.
type AccessLog struct {
	*linelog.Writer
	sample float64
}

// NewAccessLog returns a log that is written while Run runs.
func NewAccessLog(cfg AccessLogConfig, log logrus.FieldLogger) *AccessLog {
	return &AccessLog{linelog.New("access_log", cmp.Or(cfg.Output, "stdout"), log), cfg.Sample}
}

// Log adds the line of a finished exchange.
func (l *AccessLog) Log(x *exchange.Exchange, end time.Time) {
	if l.sample < 1 && x.Status < 500 && rand.Float64() >= l.sample {
		return
	}
	l.Append(x.Conn.Shard, func(b []byte) []byte { return appendLine(b, x, end) })
}

// appendLine appends what an operator wants to know of an exchange. Query,
// cookies and credentials stay out.
func appendLine(b []byte, x *exchange.Exchange, end time.Time) []byte {
	b = append(b, `{"client_ip":"`...)
	b = x.ClientIP.AppendTo(b)
	b = append(b, `","method":`...)
	b = appendJSON(b, x.Method)
	b = append(b, `,"host":`...)
	b = appendJSON(b, x.Target.Host)
	b = append(b, `,"path":`...)
	b = appendJSON(b, x.Target.Path)
	b = append(b, `,"protocol":"`...)
	b = append(b, x.Proto.String()...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(x.Status), 10)
	b = append(b, `,"route":`...)
	b = appendJSON(b, x.RouteName)
	b = append(b, `,"service":`...)
	b = appendJSON(b, x.ServiceName)
	b = append(b, `,"instance":`...)
	b = appendJSON(b, x.InstanceAddr)
	if x.Consumer != nil {
		b = append(b, `,"consumer":`...)
		b = appendJSON(b, x.Consumer.Name)
	}
	b = append(b, `,"tries":`...)
	b = strconv.AppendInt(b, int64(x.Tries), 10)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, x.BytesIn, 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, x.BytesOut, 10)
	b = append(b, `,"duration_ms":`...)
	b = appendMillis(b, end.Sub(x.Start))
	b = append(b, `,"upstream_ms":`...)
	b = appendMillis(b, x.Upstream)
	b = append(b, `,"request_id":`...)
	b = appendJSON(b, x.RequestID)
	if ua := x.Request.Get(exchange.UserAgent); ua != "" {
		b = append(b, `,"user_agent":`...)
		b = appendJSON(b, ua)
	}
	if x.Attack != "" {
		b = append(b, `,"waf":"`...)
		b = append(b, x.Attack...)
		b = append(b, '"')
	}
	if x.Err != nil {
		b = append(b, `,"fault":"`...)
		b = append(b, x.Err.Kind...)
		b = append(b, `","source":"`...)
		b = append(b, x.Err.Source.String()...)
		b = append(b, `","error":`...)
		b = appendJSON(b, x.Err.Error())
	}
	b = append(b, `,"level":"info","msg":"request","time":"`...)
	b = end.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	return append(b, '"', '}', '\n')
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', 3, 64)
}

// appendJSON appends s as a JSON string; what isn't UTF-8 becomes U+FFFD.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		case c < utf8.RuneSelf:
			b = append(b, c)
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += size
			continue
		}
		i++
	}
	return append(b, '"')
}
