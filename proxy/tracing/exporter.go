package tracing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	shards     = 16
	sendEvery  = time.Second
	wakeAt     = 512 << 10 // bytes that wait which wake the worker early
	maxQueue   = 8 << 20   // bytes that wait; beyond them spans are dropped
	maxBatch   = 1 << 20   // bytes in a request, but for a longer span
	maxAnswer  = 64 << 10
	firstPause = time.Second
	maxPause   = 30 * time.Second
	giveUp     = 2 * time.Minute // for one batch
	maxWait    = time.Hour       // that a collector may ask for
	lastTime   = 2 * time.Second // for what is left at the end
)

// Deps are what an Exporter works with.
type Deps struct {
	Log     logrus.FieldLogger
	Version string
	// Transport makes one with these root certificates in PEM; "": the system's.
	Transport func(cas string) *http.Transport
}

// Exporter sends spans to a collector while Run runs. It outlives reloads.
type Exporter struct {
	d       Deps
	set     atomic.Pointer[settings] // nil: nothing is sent
	list    [shards]shard
	waiting atomic.Int64 // bytes in list
	wake    chan struct{}
	spans   sync.Pool // *exchange.Spans

	sent, dropped, rejected, failures atomic.Uint64
}

type shard struct {
	mu    sync.Mutex // guards the rest
	buf   []byte     // fields of ScopeSpans
	spans int
	_     [64]byte
}

// NewExporter returns an exporter that has nobody to send to yet.
func NewExporter(d Deps) *Exporter { return &Exporter{d: d, wake: make(chan struct{}, 1)} }

// Configure makes e send to the collector of that configuration, from the next batch
// on; nil: to none. cas are the roots in ca_file.
func (e *Exporter) Configure(c *Config, cas string) {
	if c == nil {
		e.set.Store(nil)
		return
	}
	next := newSettings(*c, cas, e.d.Version)
	if now := e.set.Load(); now != nil && reflect.DeepEqual(now, next) {
		return // connections stay
	}
	e.set.Store(next)
}

// Counts is what became of spans.
type Counts struct {
	Sent     uint64 // the collector took them
	Dropped  uint64 // it was away or too slow for too long
	Rejected uint64 // it didn't want them
	Failures uint64 // requests to it that failed
	Waiting  int64  // bytes
}

// Counts returns them, and whether traces are sent at all.
func (e *Exporter) Counts() (Counts, bool) {
	return Counts{e.sent.Load(), e.dropped.Load(), e.rejected.Load(), e.failures.Load(), e.waiting.Load()}, e.set.Load() != nil
}

// add encodes the spans of x. It waits for nothing but the shard's lock.
func (e *Exporter) add(x *exchange.Exchange, took time.Duration, route string) {
	n := 1 + len(x.Trace.Spans.List)
	if e.waiting.Load() > maxQueue {
		e.dropped.Add(uint64(n))
		return
	}
	s := &e.list[x.Conn.Shard%shards]
	s.mu.Lock()
	before := len(s.buf)
	s.buf, n = appendSpans(s.buf, x, took, route)
	s.spans += n
	size := int64(len(s.buf) - before)
	s.mu.Unlock()
	if now := e.waiting.Add(size); now >= wakeAt && now-size < wakeAt {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

// Run sends until ctx ends, then what is left, for two seconds at most.
func (e *Exporter) Run(ctx context.Context) {
	w := worker{e: e}
	defer w.close()
	t := time.NewTicker(sendEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTime)
			defer cancel()
			w.last = true
			w.round(last)
			return
		case <-e.wake:
		case <-t.C:
		}
		w.round(ctx)
	}
}

// worker is the sending end, of one goroutine.
type worker struct {
	e         *Exporter
	set       *settings
	transport *http.Transport
	client    *http.Client
	last      bool      // nothing is tried again any more
	until     time.Time // the collector isn't asked before: it said so
	failing   bool

	spare  []byte // a shard's memory, in turn
	body   []byte
	zipped bytes.Buffer
	gzip   *gzip.Writer
}

func (w *worker) close() {
	if w.transport != nil {
		w.transport.CloseIdleConnections()
	}
}

// round sends what waits.
func (w *worker) round(ctx context.Context) {
	for i := range w.e.list {
		s := &w.e.list[i]
		s.mu.Lock()
		buf, n := s.buf, s.spans
		s.buf, s.spans = w.spare[:0], 0
		s.mu.Unlock()
		w.e.waiting.Add(-int64(len(buf)))
		if w.spare = buf; cap(buf) > maxBatch {
			w.spare = nil // of a burst
		}
		for rest := buf; len(rest) > 0; {
			batch, count := split(rest)
			rest, n = rest[len(batch):], n-count
			w.send(ctx, batch, count)
		}
		if n != 0 {
			w.e.d.Log.Errorf("tracing: %d spans weren't encoded as one each", n)
		}
	}
}

// split takes a batch of whole spans off b.
func split(b []byte) (batch []byte, spans int) {
	end := 0
	for end < len(b) && end < maxBatch {
		_, _, n := protowire.ConsumeField(b[end:])
		if n < 0 { // it is ours: that can't be
			return b, spans
		}
		end += n
		spans++
	}
	return b[:end], spans
}

// send sends a batch, again and again as the collector wants it (OTLP 1.x, "OTLP/HTTP
// Throttling" and "Failures").
func (w *worker) send(ctx context.Context, batch []byte, spans int) {
	begin, pause := time.Now(), firstPause
	for {
		set := w.configure()
		if set == nil || time.Now().Before(w.until) {
			w.e.dropped.Add(uint64(spans))
			return
		}
		rejected, wait, err := w.try(ctx, set, batch)
		if err == nil {
			w.e.rejected.Add(uint64(min(rejected, int64(spans))))
			w.e.sent.Add(uint64(max(0, int64(spans)-rejected)))
			w.tell(nil)
			return
		}
		w.e.failures.Add(1)
		w.tell(err)
		var again *retry
		if !errors.As(err, &again) || w.last || ctx.Err() != nil {
			w.e.dropped.Add(uint64(spans))
			return
		}
		if wait == 0 {
			wait = pause/2 + rand.N(pause)
			pause = min(2*pause, maxPause)
		}
		if time.Since(begin)+wait > giveUp {
			w.until = time.Now().Add(min(wait, maxWait))
			w.e.dropped.Add(uint64(spans))
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done(): // once more, at the end
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			w.last = true
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastTime)
			defer cancel()
		}
	}
}

// configure brings the client up to date with the settings in force.
func (w *worker) configure() *settings {
	set := w.e.set.Load()
	if set == w.set {
		return set
	}
	w.close()
	w.set, w.failing, w.until = set, false, time.Time{}
	if set != nil {
		w.transport = w.e.d.Transport(set.cas)
		w.client = &http.Client{Transport: w.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return set
}

// retry is a failure after which the same is to be tried again.
type retry struct{ error }

// try makes one request. It returns how many spans the collector didn't want, or how
// long to wait, if it says so.
func (w *worker) try(ctx context.Context, set *settings, batch []byte) (rejected int64, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, set.timeout)
	defer cancel()
	w.body = request(w.body[:0], set.resource, batch)
	w.zipped.Reset()
	if w.gzip == nil {
		if w.gzip, err = gzip.NewWriterLevel(&w.zipped, gzip.BestSpeed); err != nil {
			return 0, 0, err
		}
	}
	w.gzip.Reset(&w.zipped)
	if _, err := w.gzip.Write(w.body); err != nil {
		return 0, 0, err
	}
	if err := w.gzip.Close(); err != nil {
		return 0, 0, err
	}
	// The transport may read the body after Do has returned: it gets its own.
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, set.url, bytes.NewReader(bytes.Clone(w.zipped.Bytes())))
	if err != nil {
		return 0, 0, err
	}
	for name, value := range set.headers {
		r.Header.Set(name, value.Reveal())
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	r.Header.Set("Content-Encoding", "gzip")
	r.Header.Set("User-Agent", "sidegate/"+w.e.d.Version)
	resp, err := w.client.Do(r)
	if err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			err = inner // without the URL, which the log has by its side
		}
		return 0, 0, &retry{err}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch code := resp.StatusCode; {
	case code == 429 || code == 502 || code == 503 || code == 504:
		return 0, retryAfter(resp.Header.Get("Retry-After")), &retry{fmt.Errorf("it answers %s", resp.Status)}
	case code < 200 || code > 299:
		return 0, 0, fmt.Errorf("it answers %s: %.200q", resp.Status, answer)
	case err != nil: // it has taken them
		return 0, 0, nil
	default:
		return partial(answer), 0, nil
	}
}

// retryAfter reads seconds or a date (RFC 9110, 10.2.3).
func retryAfter(s string) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// partial is how many spans an ExportTraceServiceResponse says were rejected: field 1
// of its partial_success, which is its field 1.
func partial(b []byte) (rejected int64) {
	success := field(b, 1)
	for len(success) > 0 {
		n, typ, size := protowire.ConsumeTag(success)
		if size < 0 {
			return 0
		}
		success = success[size:]
		if n == 1 && typ == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(success)
			return max(0, int64(v))
		}
		if size = protowire.ConsumeFieldValue(n, typ, success); size < 0 {
			return 0
		}
		success = success[size:]
	}
	return 0
}

// field is the message in field want of b; nil: there is none.
func field(b []byte, want protowire.Number) []byte {
	for len(b) > 0 {
		n, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return nil
		}
		b = b[size:]
		if n == want && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b)
			return v
		}
		if size = protowire.ConsumeFieldValue(n, typ, b); size < 0 {
			return nil
		}
		b = b[size:]
	}
	return nil
}

// tell logs what changed.
func (w *worker) tell(err error) {
	if (err != nil) == w.failing {
		return
	}
	w.failing = err != nil
	log := w.e.d.Log.WithField("url", w.set.url)
	if err != nil {
		log.WithError(err).Warn("the collector takes no traces; requests aren't affected")
	} else {
		log.Info("the collector takes traces again")
	}
}
