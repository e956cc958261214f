package tls

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapCore writes what certmagic logs through zap to our logger. Its Info is
// our Debug: what an operator wants to know we log ourselves. Its errors are
// repeated at every try, and here at most every ten minutes.
type zapCore struct {
	log    logrus.FieldLogger
	debug  bool
	fields []zapcore.Field
	seen   *seenErrors
}

// seenErrors remembers which messages were logged lately.
type seenErrors struct {
	mu sync.Mutex // guards the map
	at map[string]time.Time
}

const (
	maxSeen    = 256
	quietFor   = 10 * time.Minute
	maxLogText = 1024
)

func newZap(log logrus.FieldLogger) *zap.Logger {
	debug := false
	switch l := log.(type) {
	case *logrus.Logger:
		debug = l.IsLevelEnabled(logrus.DebugLevel)
	case *logrus.Entry:
		debug = l.Logger.IsLevelEnabled(logrus.DebugLevel)
	}
	return zap.New(&zapCore{log: log, debug: debug, seen: &seenErrors{at: make(map[string]time.Time)}})
}

func (c *zapCore) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel || c.debug }

func (c *zapCore) With(f []zapcore.Field) zapcore.Core {
	d := *c
	d.fields = append(append(make([]zapcore.Field, 0, len(c.fields)+len(f)), c.fields...), f...)
	return &d
}

func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *zapCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, list := range [][]zapcore.Field{c.fields, f} {
		for i := range list {
			if !secretField(list[i].Key) {
				list[i].AddTo(enc)
			}
		}
	}
	fields := make(logrus.Fields, len(enc.Fields)+1)
	for k, v := range enc.Fields {
		fields[k] = clip(v)
	}
	if e.LoggerName != "" {
		fields["logger"] = e.LoggerName
	}
	switch {
	case e.Level < zapcore.WarnLevel:
		c.log.WithFields(fields).Debug("acme: " + e.Message)
	case c.seen.first(e.Message+fmt.Sprint(fields["error"], fields["identifier"], fields["subject"]), e.Time):
		c.log.WithFields(fields).Warn("acme: " + e.Message)
	}
	return nil
}

func (c *zapCore) Sync() error { return nil }

// secretField reports whether a field may hold what nobody should read in a
// log: keys, tokens, key authorisations, nonces, whole headers.
func secretField(key string) bool {
	k := strings.ToLower(key)
	for _, s := range []string{"token", "key_auth", "keyauth", "pem", "headers", "nonce", "secret", "password", "authorization", "private"} {
		if strings.Contains(k, s) {
			return true
		}
	}
	return false
}

func clip(v any) any {
	switch x := v.(type) {
	case bool, int, int64, uint64, float64, time.Time, time.Duration:
		return x
	case string:
		if len(x) > maxLogText {
			return x[:maxLogText] + "…"
		}
		return x
	default:
		return clip(fmt.Sprint(x))
	}
}

// first reports whether a message wasn't logged in the last ten minutes.
func (s *seenErrors) first(msg string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.at[msg]; ok && now.Sub(t) < quietFor {
		return false
	}
	if len(s.at) >= maxSeen {
		clear(s.at)
	}
	s.at[msg] = now
	return true
}
