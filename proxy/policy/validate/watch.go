package validate

import (
	"io"
	"strings"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/openapi"
)

// watch looks at a response: at its head now, at its body when it has passed.
func (w *watched) watch(x *exchange.Exchange, c *openapi.Check) {
	item := w.find(c, x.Target.Path)
	if item == nil {
		return // a request that mode report let pass
	}
	op := item.Operation(x.Method)
	if op == nil {
		return
	}
	content, readable := op.Response(c, x.Status, x.Response.Get(exchange.ContentType))
	if len(c.Found) > 0 {
		w.wrong(x, item.Path, sentence(c.Found))
		return
	}
	if !readable || !x.HasResponseBody() || x.ResponseBody == nil || x.ResponseLength == 0 {
		return
	}
	coding := x.Response.Get(exchange.ContentEncoding)
	if x.ResponseLength > w.Body || coding != "" && !exchange.EqualFold(coding, "identity") {
		w.counts.unseen.Add(1)
		return
	}
	x.Stored = nil // what passes is looked at, not what was made of it before
	x.ResponseBody = &copied{Body: x.ResponseBody, w: w, x: x, content: content, path: item.Path}
}

// wrong reports a response.
func (w *watched) wrong(x *exchange.Exchange, path, why string) {
	w.counts.wrong.Add(1)
	w.store.report(&w.counts.responses, "a response isn't as the document has it", x, path, strings.Clone(why))
}

// copied is the body of a response, copied while it passes. It is checked when
// the exchange closes it, after the client has got it.
type copied struct {
	exchange.Body
	w       *watched
	x       *exchange.Exchange
	content openapi.Content
	path    string
	b       []byte
	over    bool        // it is larger than what is checked
	ended   atomic.Bool // all of it has passed
	checked atomic.Bool
}

// Read passes bytes on.
func (b *copied) Read(p []byte) (int, error) {
	n, err := b.Body.Read(p)
	b.copy(p[:n], err == io.EOF)
	return n, err
}

// Next passes on what is in memory.
func (b *copied) Next() ([]byte, bool) {
	p, done := b.Body.Next()
	b.copy(p, done)
	return p, done
}

func (b *copied) copy(p []byte, end bool) {
	if b.over = b.over || int64(len(b.b)+len(p)) > b.w.Body; b.over {
		b.b = nil
	} else {
		b.b = append(b.b, p...)
	}
	if end {
		b.ended.Store(true)
	}
}

// Close checks a body that has passed in full. It may be called by another
// goroutine than the reader's, which reads no more once ended is set.
func (b *copied) Close() error {
	err := b.Body.Close()
	if !b.ended.Load() || b.checked.Swap(true) {
		return err
	}
	if b.over {
		b.w.counts.unseen.Add(1)
		return err
	}
	c := b.w.check()
	defer b.w.done(c)
	c.Answer(b.content, string(b.b))
	if len(c.Found) > 0 {
		b.w.wrong(b.x, b.path, sentence(c.Found))
	}
	return err
}
