package cache

import (
	"strconv"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

const (
	cacheStatus = "Cache-Status" // RFC 9211
	statusName  = "sidegate"
)

// serve answers with e, whose body is on its way where f isn't nil.
func (l *look) serve(e *entry, f *fill, how string) {
	x := l.x
	age := e.age(l.now)
	var room [96]byte
	b := append(append(append(room[:0], statusName...), how...), "; ttl="...)
	x.ResponseEdits.Add(cacheStatus, x.Keep(strconv.AppendInt(b, int64((e.Lifetime-age)/time.Second), 10)))
	x.ResponseEdits.SetID(exchange.Age, "Age", x.Keep(strconv.AppendInt(room[:0], int64(age/time.Second), 10)))
	verdict, from, to := rules.Whole, int64(0), int64(len(e.body))
	if x.Method == "GET" && e.status == 200 && f == nil && x.Request.Has(exchange.Range) {
		verdict, from, to = rules.Range(&x.Request, e.Validators, int64(len(e.body)))
	}
	switch {
	case e.status == 200 && rules.NotModified(&x.Request, e.Validators): // before Range (RFC 9110, 13.2.2)
		x.Reply(304, "", nil)
		e.show(x)
		x.ResponseLength = 0
		dropContent(&x.Response)
		return
	case verdict == rules.Unsatisfiable:
		x.Reply(416, "", nil)
		e.show(x)
		dropContent(&x.Response)
		x.ResponseEdits.SetID(exchange.ContentRange, "Content-Range", x.Keep(strconv.AppendInt(append(room[:0], "bytes */"...), int64(len(e.body)), 10)))
		return
	case verdict == rules.Part:
		x.Reply(206, "", e.body[from:to:to])
		x.ResponseEdits.SetID(exchange.ContentRange, "Content-Range", x.Keep(contentRange(room[:0], from, to, len(e.body))))
	case f != nil:
		x.Reply(e.status, "", nil)
		x.ResponseBody, x.ResponseLength = f.reader(), e.length
	case x.Method == "HEAD":
		x.Reply(e.status, "", nil)
		x.ResponseLength = int64(len(e.body))
	default:
		x.Reply(e.status, "", e.body)
	}
	e.show(x)
	l.p.counts.bytes.Add(uint64(max(0, x.ResponseLength)))
}

func contentRange(b []byte, from, to int64, size int) []byte {
	b = strconv.AppendInt(append(b, "bytes "...), from, 10)
	b = strconv.AppendInt(append(b, '-'), to-1, 10)
	return strconv.AppendInt(append(b, '/'), int64(size), 10)
}

// show makes the stored fields those of the response, without a copy.
func (e *entry) show(x *exchange.Exchange) {
	x.Response.Share(e.head)
	hide(&x.Response)
}

// hide keeps back what speaks to this cache alone (RFC 9213, 2).
func hide(h *exchange.Head) {
	for i := range h.Len() {
		if h.ID(i) == exchange.Other {
			if name, _ := h.Field(i); len(name) == len(rules.Own) && exchange.EqualFold(name, rules.Own) {
				h.Drop(i)
			}
		}
	}
}

// dropContent keeps back what describes a content that isn't sent (RFC 9110,
// 15.4.5).
func dropContent(h *exchange.Head) {
	for i := range h.Len() {
		switch h.ID(i) {
		case exchange.ContentType, exchange.ContentEncoding, exchange.ContentLength, exchange.ContentRange:
			h.Drop(i)
		}
	}
}
