package waf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// format is what the rules read a body as.
type format uint8

const (
	nothing    format = iota // there is no body
	form                     // application/x-www-form-urlencoded
	parts                    // multipart/form-data
	jsonText                 // application/json, …+json
	xmlText                  // application/xml, …+xml
	plainText                // text, and what says nothing of itself
	unseen                   // passes as it is
	unreadable               // of a type that no rule understands
)

// mediaTypes are the media types of a block's uninspected.
type mediaTypes struct {
	exact  map[string]bool
	prefix []string // "image/"
}

func newMediaTypes(list []string) (mediaTypes, error) {
	t := mediaTypes{exact: map[string]bool{}}
	var errs error
	for _, s := range list {
		low := strings.ToLower(s)
		kind, sub, ok := strings.Cut(low, "/")
		switch {
		case !ok || !exchange.IsToken(kind) || sub != "*" && !exchange.IsToken(sub):
			errs = errors.Join(errs, fmt.Errorf(`%.60q isn't a media type, such as "image/png" or "image/*"`, s))
		case sub == "*" && kind == "*":
			errs = errors.Join(errs, fmt.Errorf("%q would let every body pass unseen", s))
		case sub == "*":
			t.prefix = append(t.prefix, kind+"/")
		default:
			t.exact[low] = true
		}
	}
	return t, errs
}

// of returns what the body of x is read as. Services differ in which of several
// Content-Type fields they take, so that such a body never passes unseen.
func (t *mediaTypes) of(x *exchange.Exchange) format {
	media, _, _ := strings.Cut(x.Request.Get(exchange.ContentType), ";")
	media = strings.ToLower(strings.TrimSpace(media))
	if x.Request.Count(exchange.ContentType) == 1 && t.has(media) {
		return unseen
	}
	_, suffix, _ := strings.Cut(media, "+")
	switch {
	case media == "application/x-www-form-urlencoded":
		return form
	case media == "multipart/form-data":
		return parts
	case media == "application/json", media == "text/json", suffix == "json":
		return jsonText
	case media == "application/xml", media == "text/xml", suffix == "xml":
		return xmlText
	case media == "", strings.HasPrefix(media, "text/"), media == "application/graphql", media == "application/x-ndjson", media == "application/jsonl":
		return plainText
	default:
		return unreadable
	}
}

func (t *mediaTypes) has(media string) bool {
	if t.exact[media] {
		return true
	}
	for _, p := range t.prefix {
		if strings.HasPrefix(media, p) {
			return true
		}
	}
	return false
}

// reading is a request on its way through the rules.
type reading struct {
	x      *exchange.Exchange
	format format
	body   []byte
	whole  bool // body is all of it, and the trailers have come
	held   int  // bytes of the store's memory
}

// read takes what of the body is inspected into memory. A request that can't be
// inspected is refused, or in mode detect passes unseen.
func (p *Policy) read(r *reading) error {
	x := r.x
	if x.RequestBody == nil || x.RequestLength == 0 {
		return nil
	}
	r.format = p.media.of(x)
	coding := x.Request.Get(exchange.ContentEncoding)
	switch {
	case r.format == unseen:
		return nil
	case coding != "" && !exchange.EqualFold(coding, "identity") || x.Request.Count(exchange.ContentEncoding) > 1:
		return p.pass(r, p.encoded)
	case r.format == unreadable:
		return p.pass(r, p.badType)
	case x.RequestLength > p.Body && p.blocks() && p.Beyond == "refuse":
		return p.tooLarge // before it is asked for
	}
	b, whole, err := p.take(r)
	if err != nil {
		return err
	}
	x.Unread(b, whole) // so that validate needn't take it once more
	r.body, r.whole = b[:min(int64(len(b)), p.Body)], whole
	if !whole {
		if p.blocks() && p.Beyond == "refuse" {
			return p.tooLarge
		}
		p.counts.unseen.Add(1)
	}
	return nil
}

// pass lets a body pass unseen, unless the mode refuses it.
func (p *Policy) pass(r *reading, f *exchange.Fault) error {
	if p.blocks() {
		return f
	}
	r.format = unseen
	p.counts.unseen.Add(1)
	return nil
}

const (
	firstRead = 8 << 10 // most bodies are shorter
	// A body that keeps memory has to come: in slack, and at this rate.
	slack, bytesPerSecond = 10 * time.Second, 8 << 10
)

// take reads the body of x up to one byte more than is inspected, which tells
// whether it is longer. Memory grows with what has come, and isn't to be had for
// a promise. Mode detect goes without what it can't have.
func (p *Policy) take(r *reading) (b []byte, whole bool, err error) {
	x, most := r.x, int(p.Body)+1
	if n := x.RequestLength; n > 0 {
		most = int(min(int64(most), n+1))
	}
	var late *time.Timer // nil: all came at once so far
	closed := make(chan struct{})
	for {
		if len(b) == cap(b) {
			more := min(max(firstRead, 2*cap(b)), most)
			if !p.hold(r, more) {
				break
			}
			b = append(make([]byte, 0, more), b...)
		}
		var n int
		n, err = x.RequestBody.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err != nil || len(b) == most {
			break
		}
		if late == nil && p.blocks() {
			body := x.RequestBody
			late = time.AfterFunc(p.within, func() {
				defer close(closed)
				_ = body.Close() // its reader says why
			})
		}
	}
	switch {
	case late != nil && !late.Stop():
		<-closed // when the exchange has ended, the body may be another's
		return nil, false, p.slow
	case err == io.EOF:
		return b, true, nil
	case err != nil:
		return nil, false, gone(err)
	case len(b) < most && p.blocks():
		return nil, false, p.busy
	default:
		return b, false, nil
	}
}

// hold makes the request hold n bytes, and reports whether there is room.
func (p *Policy) hold(r *reading, n int) bool {
	if !p.store.hold(r.x.ClientIP, n-r.held) {
		return false
	}
	r.held = n
	return true
}

// gone is why a body broke off.
func gone(err error) error {
	var f *exchange.Fault
	if errors.As(err, &f) {
		return f
	}
	return &exchange.Fault{Source: exchange.FromClient, Kind: exchange.ClientGone, Err: fmt.Errorf("waf: reading the body: %w", err)}
}

// crowded reports whether the request has more parts than the rules should be
// asked about. Arguments, form fields and JSON values are counted where they
// are read; what is left is counted here, by what each of them can't be without.
func (p *Policy) crowded(r *reading) bool {
	cookies := 0
	for i := range r.x.Request.Len() {
		if r.x.Request.ID(i) == exchange.Cookie {
			_, value := r.x.Request.Field(i)
			cookies += 1 + strings.Count(value, ";")
		}
	}
	if cookies > p.Arguments {
		return true
	}
	switch r.format {
	case parts:
		_, params, err := mime.ParseMediaType(r.x.Request.Get(exchange.ContentType))
		return err == nil && bytes.Count(r.body, []byte("--"+params["boundary"])) > p.Arguments+1
	case xmlText:
		return bytes.Count(r.body, []byte("<"))/2+bytes.Count(r.body, []byte("=")) > 2*p.Arguments
	}
	return false
}

// misread reports whether a multipart body has what readers take for different
// things: something before the first part or behind the last one, where some look
// for further parts, and a file's name by filename* alone, which RFC 7578, 4.2
// forbids: who doesn't know it takes the file for a field, and files aren't
// looked into.
func misread(r *reading) bool {
	_, params, err := mime.ParseMediaType(r.x.Request.Get(exchange.ContentType))
	if err != nil {
		return false // Coraza comes to the same end, and says so
	}
	bound := "--" + params["boundary"]
	body, ok := bytes.CutPrefix(bytes.TrimLeft(r.body, "\r\n"), []byte(bound))
	behind, none := bytes.CutPrefix(body, []byte("--"))
	if !none {
		_, behind, _ = bytes.Cut(body, []byte("\n"+bound+"--"))
	}
	if !ok || len(bytes.TrimSpace(behind)) > 0 {
		return true
	}
	in := multipart.NewReader(bytes.NewReader(r.body), params["boundary"])
	for {
		p, err := in.NextRawPart()
		if err != nil {
			return false // likewise, or it has ended
		}
		if nameless(p.Header.Get("Content-Disposition")) {
			return true
		}
	}
}

// nameless reports whether a part has a filename* and no filename.
func nameless(disposition string) bool {
	low := strings.ToLower(disposition)
	if !strings.Contains(low, "filename*") {
		return false
	}
	_, params, err := mime.ParseMediaType(strings.ReplaceAll(low, "filename*", "other"))
	_, ok := params["filename"]
	return err != nil || !ok
}
