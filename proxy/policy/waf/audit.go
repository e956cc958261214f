package waf

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// entry is a line of the audit log, in the shape of logrus's JSON formatter. It
// tells where in a request something was found, never what stands there, and of
// the request no more than the access log does.
type entry struct {
	ClientIP  string    `json:"client_ip"`
	Method    string    `json:"method"`
	Host      string    `json:"host"`
	Path      string    `json:"path"`
	Protocol  string    `json:"protocol"`
	Route     string    `json:"route"`
	Action    string    `json:"action"` // "blocked" or "detected"
	Score     int       `json:"score"`
	Threshold int       `json:"threshold"`
	Paranoia  int       `json:"paranoia"`
	Rules     []finding `json:"rules"`
	More      int       `json:"more,omitempty"` // rules that aren't listed
	RequestID string    `json:"request_id"`
	UserAgent string    `json:"user_agent,omitempty"`
	Level     string    `json:"level"`
	Message   string    `json:"msg"`
	Time      string    `json:"time"`
}

// audit adds a line to the audit log, if there is one.
func (s *Store) audit(p *Policy, x *exchange.Exchange, f *found) {
	if s.Audit == nil {
		return
	}
	action := "detected"
	if p.blocks() {
		action = "blocked"
	}
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	err := e.Encode(entry{
		ClientIP: x.ClientIP.String(), Method: x.Method, Host: x.Target.Host, Path: x.Target.Path, Protocol: x.Proto.String(), Route: p.route,
		Action: action, Score: f.score, Threshold: p.Threshold, Paranoia: p.Paranoia, Rules: f.list, More: f.more,
		RequestID: x.RequestID, UserAgent: x.Request.Get(exchange.UserAgent),
		Level: "warning", Message: "attack", Time: time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00"),
	})
	if err != nil { // texts and numbers can't fail
		s.Log.WithError(err).Error("a line of the audit log is lost")
		return
	}
	var number uint32
	if x.Conn != nil {
		number = x.Conn.Shard
	}
	s.Audit(number, func(b []byte) []byte { return append(b, line.Bytes()...) })
}
