package proxy

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// AccessLog writes one JSON line for each exchange, in the shape of logrus's
// JSON formatter. Lines are gathered in memory and written by one goroutine
// (Run), off the request path; when the output can't keep up, lines are dropped
// and counted rather than requests delayed.
type AccessLog struct {
	cfg     AccessLogConfig
	log     logrus.FieldLogger
	dropped atomic.Uint64
	shards  []logShard
	wake    chan struct{}
	reopen  chan struct{}
}

type logShard struct {
	mu  sync.Mutex // guards buf
	buf []byte
	_   [64]byte
}

const (
	logFlush = 200 * time.Millisecond
	logWake  = 32 << 10 // bytes in a shard that wake the writer early
	logLimit = 1 << 20  // bytes in a shard from which lines are dropped
)

// NewAccessLog returns a log that is written while Run runs.
func NewAccessLog(cfg AccessLogConfig, log logrus.FieldLogger) *AccessLog {
	return &AccessLog{cfg: cfg, log: log, shards: make([]logShard, 16), wake: make(chan struct{}, 1), reopen: make(chan struct{}, 1)}
}

// Dropped is how many lines the output was too slow for.
func (l *AccessLog) Dropped() uint64 { return l.dropped.Load() }

// Reopen makes Run open the file again, for log rotation.
func (l *AccessLog) Reopen() {
	select {
	case l.reopen <- struct{}{}:
	default:
	}
}

// Open opens the output, so that a bad path is known before Run.
func (l *AccessLog) Open() (io.WriteCloser, error) {
	switch l.cfg.Output {
	case "stdout", "":
		return keepOpen{os.Stdout}, nil
	case "stderr":
		return keepOpen{os.Stderr}, nil
	}
	f, err := os.OpenFile(l.cfg.Output, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("access_log: %w", err)
	}
	return f, nil
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// Run writes lines to out until done is closed, then what is left.
func (l *AccessLog) Run(done <-chan struct{}, out io.WriteCloser) {
	t := time.NewTicker(logFlush)
	defer t.Stop()
	var spare []byte
	for {
		select {
		case <-done:
			l.flush(out, spare)
			_ = out.Close() // nobody is left to tell
			return
		case <-l.reopen:
			next, err := l.Open()
			if err != nil {
				l.log.WithError(err).Error("the access log can't be opened again; the old file goes on")
				break
			}
			spare = l.flush(out, spare) // what came before belongs to the old file
			_ = out.Close()             // everything is written
			out = next
		case <-l.wake:
		case <-t.C:
		}
		spare = l.flush(out, spare)
	}
}

func (l *AccessLog) flush(out io.Writer, spare []byte) []byte {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		full := s.buf
		s.buf = spare[:0]
		s.mu.Unlock()
		if len(full) > 0 {
			if _, err := out.Write(full); err != nil {
				l.dropped.Add(uint64(bytes.Count(full, []byte{'\n'})))
			}
		}
		spare = full
	}
	return spare
}

// Log adds the line of a finished exchange.
func (l *AccessLog) Log(x *exchange.Exchange, end time.Time) {
	if l.cfg.Sample < 1 && x.Status < 500 && rand.Float64() >= l.cfg.Sample {
		return
	}
	s := &l.shards[x.Conn.Shard&15]
	s.mu.Lock()
	if len(s.buf) > logLimit {
		s.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	before := len(s.buf)
	s.buf = appendLine(s.buf, x, end)
	early := before < logWake && len(s.buf) >= logWake
	s.mu.Unlock()
	if early {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
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
