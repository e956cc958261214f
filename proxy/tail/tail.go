// Package tail shows requests as they end to people who look on. While nobody
// does, that costs one atomic load for each request. Nobody can slow requests
// down: what is too fast for a listener is left out and counted.
//
// It isn't a log: nothing is kept, and queries, cookies and credentials are never
// part of what is told. It has no goroutines.
package tail

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	maxListeners = 8
	each         = 10 * time.Millisecond // a listener gets an entry in that time
	burst        = 100                   // or so many at once
	room         = 128                   // entries that wait for a slow listener
	maxText      = 512                   // bytes of what clients send
)

// ErrMany is returned when there are as many listeners as there may be.
var ErrMany = errors.New("8 others are looking on already")

// Entry is a request that has ended. It is a copy: it may be kept.
type Entry struct {
	Time      time.Time `json:"time"` // when it ended
	Client    string    `json:"client"`
	Consumer  string    `json:"consumer,omitempty"`
	Method    string    `json:"method"`
	Host      string    `json:"host"`
	Path      string    `json:"path"` // without the query
	Query     bool      `json:"query,omitempty"`
	Protocol  string    `json:"protocol"`
	Status    int       `json:"status"` // 0: no response was sent
	Route     string    `json:"route"`
	Service   string    `json:"service,omitempty"`
	Instance  string    `json:"instance,omitempty"`
	Tries     int       `json:"tries,omitempty"`
	Cached    bool      `json:"cached,omitempty"` // answered without a request of its own to the service
	BytesIn   int64     `json:"bytes_in"`
	BytesOut  int64     `json:"bytes_out"`
	Seconds   float64   `json:"seconds"`
	Upstream  float64   `json:"upstream_seconds,omitempty"`
	UserAgent string    `json:"user_agent,omitempty"`
	RequestID string    `json:"request_id"`
	Fault     string    `json:"fault,omitempty"`
	Source    string    `json:"source,omitempty"` // of the fault
	Error     string    `json:"error,omitempty"`
}

// Filter says which requests a listener wants; what is empty holds for all.
type Filter struct {
	Route    string
	Service  string
	Consumer string
	Class    int          // of the status, by hundreds; -1: all; 0: no response
	Client   netip.Prefix // invalid: all
	Text     string       // in lower case: a part of method, host, path, user agent, request id or error
}

// Tap is where requests are told. A nil Tap tells nobody.
type Tap struct {
	mu   sync.Mutex // guards changes of list
	list atomic.Pointer[[]*Listener]
}

// Listener is somebody who looks on. Close it.
type Listener struct {
	C       chan Entry
	tap     *Tap
	filter  Filter
	leftOut atomic.Uint64
	full    atomic.Int64 // when a whole burst may come again, in ns since 1970
}

// Listen adds a listener.
func (t *Tap) Listen(f Filter) (*Listener, error) {
	l := &Listener{C: make(chan Entry, room), tap: t, filter: f}
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*Listener
	if p := t.list.Load(); p != nil {
		list = slices.Clone(*p)
	}
	if len(list) >= maxListeners {
		return nil, ErrMany
	}
	list = append(list, l)
	t.list.Store(&list)
	return l, nil
}

// Close ends the listening; C gets nothing more, soon.
func (l *Listener) Close() {
	t := l.tap
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.list.Load()
	if p == nil {
		return
	}
	list := slices.DeleteFunc(slices.Clone(*p), func(o *Listener) bool { return o == l })
	if len(list) == 0 {
		t.list.Store(nil)
		return
	}
	t.list.Store(&list)
}

// LeftOut is how many requests that the filter wanted were too many since it was
// last asked.
func (l *Listener) LeftOut() uint64 { return l.leftOut.Swap(0) }

// Tell tells of a request that ends now and took that long.
func (t *Tap) Tell(x *exchange.Exchange, took time.Duration) {
	if t == nil {
		return
	}
	list := t.list.Load()
	if list == nil {
		return
	}
	end := x.Start.Add(took)
	for _, l := range *list {
		if !l.filter.wants(x) {
			continue
		}
		if !l.may(end) {
			l.leftOut.Add(1)
			continue
		}
		select {
		case l.C <- entry(x, end, took):
		default:
			l.leftOut.Add(1)
		}
	}
}

// may reports whether there is room for one more now.
func (l *Listener) may(now time.Time) bool {
	at := now.UnixNano()
	for {
		full := l.full.Load()
		next := max(full, at) + int64(each)
		if next > at+burst*int64(each) {
			return false
		}
		if l.full.CompareAndSwap(full, next) {
			return true
		}
	}
}

func (f *Filter) wants(x *exchange.Exchange) bool {
	switch {
	case f.Route != "" && f.Route != x.RouteName,
		f.Service != "" && f.Service != x.ServiceName,
		f.Consumer != "" && (x.Consumer == nil || f.Consumer != x.Consumer.Name),
		f.Class >= 0 && f.Class != x.Status/100,
		f.Client.IsValid() && !f.Client.Contains(x.ClientIP.Unmap()):
		return false
	}
	if f.Text == "" {
		return true
	}
	for _, s := range []string{x.Target.Path, x.Target.Host, x.Method, x.RequestID, x.Request.Get(exchange.UserAgent)} {
		if strings.Contains(strings.ToLower(s), f.Text) {
			return true
		}
	}
	return x.Err != nil && strings.Contains(strings.ToLower(x.Err.Error()), f.Text)
}

// entry copies what may be told: the exchange's strings are views.
func entry(x *exchange.Exchange, end time.Time, took time.Duration) Entry {
	e := Entry{
		Time: end, Client: x.ClientIP.Unmap().String(), Method: clip(x.Method), Host: clip(x.Target.Host), Path: clip(x.Target.Path), Query: x.Target.HasQuery,
		Protocol: x.Proto.String(), Status: x.Status, Route: x.RouteName, Service: x.ServiceName, Instance: strings.Clone(x.InstanceAddr), Tries: x.Tries,
		Cached: x.Cached.Hit(), BytesIn: x.BytesIn, BytesOut: x.BytesOut, Seconds: took.Seconds(), Upstream: x.Upstream.Seconds(),
		UserAgent: clip(x.Request.Get(exchange.UserAgent)), RequestID: clip(x.RequestID),
	}
	if x.Consumer != nil {
		e.Consumer = x.Consumer.Name
	}
	if x.Err != nil {
		e.Fault, e.Source, e.Error = string(x.Err.Kind), x.Err.Source.String(), clip(x.Err.Error())
	}
	return e
}

// clip copies what is worth showing of a text that a client chose. What isn't
// UTF-8 becomes U+FFFD.
func clip(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	return strings.Clone(strings.ToValidUTF8(s, "\uFFFD"))
}
