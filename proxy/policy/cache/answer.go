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
	var spans [4]rules.Span
	verdict, list, size := rules.Whole, spans[:0], e.length
	if f == nil {
		size = e.size()
	}
	if x.Method == "GET" && e.status == 200 && size >= 0 && x.Request.Has(exchange.Range) {
		verdict, list = rules.Range(&x.Request, e.Validators, size, list)
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
		setContentRange(x, rules.Span{}, size)
		return
	case verdict == rules.Part && len(list) == 1:
		s := list[0]
		if f == nil {
			x.Reply(206, "", e.body[s.From:s.To:s.To])
		} else {
			x.Reply(206, "", nil)
			x.ResponseBody, x.ResponseLength = &part{f.reader(), s.From, s.Len()}, s.Len()
		}
		setContentRange(x, s, size)
	case verdict == rules.Part && f == nil:
		x.Reply(206, "", nil)
		e.show(x)
		multipart(x, list, x.Response.Get(exchange.ContentType), e.body)
	case f != nil:
		x.Reply(e.status, "", nil)
		x.ResponseBody, x.ResponseLength = f.reader(), e.length
		l.stored(e, f)
	case x.Method == "HEAD":
		x.Reply(e.status, "", nil)
		x.ResponseLength = size
		l.stored(e, nil)
	default:
		x.Reply(e.status, "", e.body)
		l.stored(e, nil)
	}
	e.show(x)
	l.p.counts.bytes.Add(uint64(max(0, x.ResponseLength)))
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
