package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/tail"
)

const (
	tailBeat  = time.Second
	tailWrite = 10 * time.Second // a browser that reads nothing for that long is gone
)

// tail streams requests as they end, as server-sent events: an entry each, and
// every second, event "left_out", how many were too many.
func (s *Server) tail(w http.ResponseWriter, r *http.Request) {
	f, err := tailFilter(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l, err := s.Gateway.Tail().Listen(f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer l.Close()
	out := http.NewResponseController(w)
	if err := out.SetReadDeadline(time.Time{}); err != nil { // the server's own would end the stream
		s.Log.WithError(err).Debug("admin: tail")
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	send := func(text string) bool {
		_ = out.SetWriteDeadline(time.Now().Add(tailWrite)) // if there is none, the server's holds
		_, err := w.Write([]byte(text))
		return err == nil && out.Flush() == nil
	}
	ends := s.sessions.ends(r, time.Now())
	beat := time.NewTicker(tailBeat)
	defer beat.Stop()
	for ok := send("retry: 2000\n: here they come\n\n"); ok; {
		select {
		case <-r.Context().Done():
			return
		case <-s.stopping:
			return
		case e := <-l.C:
			b, err := json.Marshal(e)
			if err != nil {
				s.Log.WithError(err).Error("admin: tail")
				return
			}
			ok = send("data: " + string(b) + "\n\n") // JSON has no line ends
		case now := <-beat.C:
			if !ends.IsZero() && (now.After(ends) || s.sessions.ends(r, now).IsZero()) {
				return
			}
			ok = send(fmt.Sprintf("event: left_out\ndata: %d\n\n", l.LeftOut()))
		}
	}
}

func tailFilter(r *http.Request) (tail.Filter, error) {
	q := r.URL.Query()
	f := tail.Filter{Route: q.Get("route"), Service: q.Get("service"), Consumer: q.Get("consumer"), Class: -1, Text: strings.ToLower(q.Get("q"))}
	if text := q.Get("status"); text != "" {
		n, err := strconv.Atoi(strings.TrimSuffix(text, "xx"))
		if err != nil || n < 0 || n > 5 || !strings.HasSuffix(text, "xx") {
			return f, Refuse(http.StatusBadRequest, "status: %.20q isn't one of 0xx (no response) to 5xx", text)
		}
		f.Class = n
	}
	if text := q.Get("client"); text != "" {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, bad := netip.ParseAddr(text)
			if bad != nil {
				return f, Refuse(http.StatusBadRequest, "client: %.50q isn't an address or a network", text)
			}
			p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		}
		f.Client = p
	}
	return f, nil
}
