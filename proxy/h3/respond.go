package h3

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// copyBuffer is how much of a response body moves at a time; and, with
// StallTimeout, the slowest client that we wait for.
const copyBuffer = 32 << 10

// Gone implements exchange.Front.
func (s *stream) Gone(*exchange.Exchange) bool { return s.ctx.Err() != nil }

// Interim implements exchange.Front.
func (s *stream) Interim(_ *exchange.Exchange, status int, h *exchange.Head) error {
	if status < 100 || status > 199 || status == http.StatusSwitchingProtocols {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "interim response %d", status)
	}
	return s.interim(status, h)
}

func (s *stream) interim(status int, h *exchange.Head) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "interim response %d after the final one", status)
	}
	header := s.w.Header()
	if h != nil {
		for i := range h.Len() {
			if id := h.ID(i); !h.Dropped(i) && !id.HopByHop() && id != exchange.ContentLength {
				put(header, h, i)
			}
		}
	}
	if err := s.w.SetWriteDeadline(time.Now().Add(s.f.cfg.StallTimeout)); err != nil {
		return asFault(err)
	}
	s.w.WriteHeader(status) // http3 writes 1xx at once, and tells no error
	clear(header)
	if s.ctx.Err() != nil {
		return exchange.NewFault(exchange.FromClient, exchange.ClientGone, "interim response %d", status)
	}
	return nil
}

// Respond implements exchange.Front.
func (s *stream) Respond(x *exchange.Exchange) error {
	s.mu.Lock() // an interim response that is being written comes first
	second := s.begun
	s.begun = true
	s.mu.Unlock()
	if second {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "second response")
	}
	if x.Status < 200 || x.Status > 999 {
		return exchange.NewFault(exchange.FromInternal, exchange.Internal, "response status %d over HTTP/3", x.Status)
	}
	s.fillResponse(x)
	if err := s.w.SetWriteDeadline(time.Now().Add(s.f.cfg.StallTimeout)); err != nil {
		return asFault(err)
	}
	s.w.WriteHeader(x.Status)
	if !x.HasResponseBody() || x.ResponseBody == nil {
		return s.finish(x, s.w.FlushError())
	}
	// A client that leaves must free the backend, also while it is silent. When
	// the close has begun it is waited for: a body may be reused afterwards.
	body, done := x.ResponseBody, make(chan struct{})
	stop := context.AfterFunc(s.ctx, func() {
		defer close(done)
		_ = body.Close() // Respond reports that the client left
	})
	err := s.copy(x)
	if !stop() {
		<-done
	}
	return s.finish(x, err)
}

// finish ends a response whose last write ended with err. Trailers go out when
// the handler has returned, so they are copied.
func (s *stream) finish(x *exchange.Exchange, err error) error {
	if err != nil {
		if s.ctx.Err() != nil {
			return &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: err}
		}
		return err
	}
	if x.HasResponseBody() {
		header := s.w.Header()
		t := &x.ResponseTrailer
		for i := range t.Len() {
			name, value := t.Field(i)
			if t.Dropped(i) || !x.ResponseEdits.MayTrail(name, t.ID(i)) {
				continue
			}
			key := http.TrailerPrefix + http.CanonicalHeaderKey(strings.Clone(name))
			header[key] = append(header[key], strings.Clone(value))
		}
	}
	s.whole = true
	return nil
}

// fillResponse makes the response's head. Its strings are views, so Respond
// sees to it that the head is written before it returns.
func (s *stream) fillResponse(x *exchange.Exchange) {
	header := s.w.Header()
	r, e := &x.Response, &x.ResponseEdits
	for i := range r.Len() {
		id := r.ID(i)
		if r.Dropped(i) || id.HopByHop() || id == exchange.ContentLength {
			continue
		}
		if name, _ := r.Field(i); !e.Empty() && e.Replaces(name, id) {
			continue
		}
		put(header, r, i)
	}
	for i := range e.Len() {
		name, value, ok := e.Field(i)
		id := exchange.Lookup(name)
		if !ok || id.HopByHop() || id == exchange.ContentLength {
			continue
		}
		k := key(name, id)
		header[k] = append(header[k], value)
	}
	if _, ok := header["Content-Type"]; !ok {
		header["Content-Type"] = nil // http3 would guess one
	}
	server := exchange.Server.Name()
	if s.f.cfg.ServerHeader != "" && len(header[server]) == 0 && !e.Replaces(server, exchange.Server) {
		header[server] = []string{s.f.cfg.ServerHeader}
	}
	if n := contentLength(x); n >= 0 {
		header["Content-Length"] = []string{strconv.FormatInt(n, 10)}
	}
}

// contentLength is the Content-Length to send, -1 for none.
func contentLength(x *exchange.Exchange) int64 {
	switch {
	case x.Status == http.StatusNoContent:
		return -1
	case x.HasResponseBody():
		if x.ResponseBody == nil {
			return 0
		}
		return x.ResponseLength
	}
	// HEAD and 304 may say how long the body would have been (RFC 9110, 8.6).
	if n, err := strconv.ParseInt(x.Response.Get(exchange.ContentLength), 10, 64); err == nil && n >= 0 {
		return n
	}
	if x.Method == http.MethodHead && x.ResponseLength > 0 {
		return x.ResponseLength
	}
	return -1
}

// key is the key of a field in http3's header map, the same for all spellings
// of a name, so that its values keep their order. http3 lowers it, and looks
// for three names.
func key(name string, id exchange.ID) string {
	switch id {
	case exchange.Other:
		return http.CanonicalHeaderKey(name)
	case exchange.Date:
		return "Date"
	case exchange.ContentType:
		return "Content-Type"
	case exchange.ContentEncoding:
		return "Content-Encoding"
	default:
		return id.Name()
	}
}

func put(header http.Header, h *exchange.Head, i int) {
	name, value := h.Field(i)
	k := key(name, h.ID(i))
	header[k] = append(header[k], value)
}

var errShort = errors.New("the body is shorter than its announced length")

// copy moves the response's body, each piece as soon as it is there.
func (s *stream) copy(x *exchange.Exchange) error {
	b, done := x.ResponseBody.Next()
	if len(b) > 0 {
		if err := s.write(x, b); err != nil {
			return err
		}
	}
	// The head goes out now, with what was at hand; http3 would hold back up to
	// 4 KiB.
	if err := s.w.FlushError(); err != nil {
		return asFault(err)
	}
	if !done {
		if err := s.pump(x); err != nil {
			return err
		}
	}
	if x.ResponseLength >= 0 && x.BytesOut != x.ResponseLength {
		return &exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendMalformed, Err: errShort}
	}
	return nil
}

func (s *stream) pump(x *exchange.Exchange) error {
	buf := s.f.bufs.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
	defer s.f.bufs.Put(buf)
	armed := time.Now()
	for {
		n, err := x.ResponseBody.Read(*buf)
		if n > 0 {
			if now := time.Now(); now.Sub(armed) > s.f.cfg.StallTimeout/8 {
				armed = now
				if err := s.w.SetWriteDeadline(now.Add(s.f.cfg.StallTimeout)); err != nil {
					return asFault(err)
				}
			}
			if err := s.write(x, (*buf)[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// write sends b; what goes beyond the announced length is the backend's fault,
// which http3 refuses to write.
func (s *stream) write(x *exchange.Exchange, b []byte) error {
	n, err := s.w.Write(b)
	x.BytesOut += int64(n)
	if errors.Is(err, http.ErrContentLength) {
		return &exchange.Fault{Source: exchange.FromUpstream, Kind: exchange.BackendMalformed, Err: err}
	}
	if err != nil {
		return asFault(err)
	}
	return nil
}
