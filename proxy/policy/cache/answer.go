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
	verdict, from, to := rules.Whole, int64(0), max(0, e.length)
	if x.Method == "GET" && e.status == 200 && f == nil && x.Request.Has(exchange.Range) {
		verdict, from, to = rules.Range(&x.Request, e.Validators, e.length)
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
		x.ResponseEdits.SetID(exchange.ContentRange, "Content-Range", x.Keep(strconv.AppendInt(append(room[:0], "bytes */"...), e.length, 10)))
		return
	case verdict == rules.Part:
		e.reply(x, 206, from, to)
		x.ResponseEdits.SetID(exchange.ContentRange, "Content-Range", x.Keep(contentRange(room[:0], from, to, e.length)))
	case f != nil:
		x.Reply(e.status, "", nil)
		x.ResponseBody, x.ResponseLength = f, e.length
	case x.Method == "HEAD":
		x.Reply(e.status, "", nil)
		x.ResponseLength = e.length
	default:
		e.reply(x, e.status, 0, e.length)
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

func contentRange(b []byte, from, to, size int64) []byte {
	b = strconv.AppendInt(append(b, "bytes "...), from, 10)
	b = strconv.AppendInt(append(b, '-'), to-1, 10)
	return strconv.AppendInt(append(b, '/'), size, 10)
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
