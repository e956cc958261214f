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
func (l *look) serve(e *entry, f *reader, how string) {
	defer e.release()
	x := l.x
	age := e.age(l.now)
	var room [96]byte
	b := append(append(append(room[:0], statusName...), how...), "; ttl="...)
	x.ResponseEdits.Add(cacheStatus, x.Keep(strconv.AppendInt(b, int64((e.Lifetime-age)/time.Second), 10)))
	x.ResponseEdits.SetID(exchange.Age, "Age", x.Keep(strconv.AppendInt(room[:0], int64(age/time.Second), 10)))
	var spans [4]rules.Span
	verdict, list, size := rules.Whole, spans[:0], e.length
	if x.Method == "GET" && e.status == 200 && size >= 0 && x.Request.Has(exchange.Range) {
		verdict, list = rules.Range(&x.Request, e.Validators, size, list)
	}
	switch {
	case e.status == 200 && rules.NotModified(&x.Request, e.Validators): // before Range (RFC 9110, 13.2.2)
		if f != nil {
			_ = f.Close()
		}
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
		if f != nil {
			_ = f.Close()
		}
		return
	case verdict == rules.Part && len(list) == 1:
		s := list[0]
		if f == nil {
			e.reply(x, 206, s.From, s.To)
		} else {
			x.Reply(206, "", nil)
			x.ResponseBody, x.ResponseLength = &part{f, s.From, s.Len()}, s.Len()
		}
		setContentRange(x, s, size)
	case verdict == rules.Part && f == nil && e.file == nil:
		x.Reply(206, "", nil)
		e.show(x)
		multipart(x, list, x.Response.Get(exchange.ContentType), e.body)
	case f != nil:
		x.Reply(e.status, "", nil)
		x.ResponseBody, x.ResponseLength = f, e.length
		l.stored(e, f.f)
	case x.Method == "HEAD":
		x.Reply(e.status, "", nil)
		x.ResponseLength = size
		l.stored(e, nil)
	default:
		e.reply(x, e.status, 0, size)
		l.stored(e, nil)
	}
	e.show(x)
	l.p.counts.bytes.Add(uint64(max(0, x.ResponseLength)))
}

// reply makes a part of the body, or all of it, the response's.
func (e *entry) reply(x *exchange.Exchange, status int, from, to int64) {
	if e.file == nil {
		x.Reply(status, "", e.body[from:to:to])
		return
	}
	x.Reply(status, "", nil)
	x.ResponseBody, x.ResponseLength = e.file.body(from, to), to-from
}

// show makes the stored fields those of the response, without a copy.
func (e *entry) show(x *exchange.Exchange) {
	if e.head != nil {
		x.Response.Share(e.head)
	} else {
		x.Response.Unpack(e.packed)
	}
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
