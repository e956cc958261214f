package validate

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/openapi"
)

// judge is a request before the document.
type judge struct {
	p    *Policy
	x    *exchange.Exchange
	c    *openapi.Check
	item *openapi.Item      // nil: the document has no such path
	op   *openapi.Operation // nil: the path has no such method
	body openapi.Verdict
}

// place is the path in the document, for a log.
func (j *judge) place() string {
	if j.item == nil {
		return ""
	}
	return j.item.Path
}

// request says why the request isn't as the document has it; nil: it is. An
// error is one of reading the body.
func (j *judge) request() (*exchange.Fault, error) {
	f := j.head()
	if j.op == nil || f != nil && j.p.Mode == "block" { // the body isn't even asked for
		return f, nil
	}
	body, err := j.checkBody()
	if err != nil || body != nil {
		return body, err
	}
	return j.found(), nil // of the head, too
}

// head checks path, method and parameters.
func (j *judge) head() *exchange.Fault {
	x := j.x
	if j.item = j.p.find(j.c, x.Target.Path); j.item == nil {
		return fault(exchange.NotInAPI, "the document has no such path")
	}
	if j.op = j.item.Operation(x.Method); j.op == nil {
		if preflight(x) {
			return nil // it is no operation of the API, and the service answers it
		}
		return fault(exchange.MethodNotAllowed, "the document has no such method of "+j.item.Path)
	}
	j.op.Parameters(j.p.api, j.c, x)
	return j.found()
}

// preflight reports whether x is one (Fetch, 4.8), which has no body.
func preflight(x *exchange.Exchange) bool {
	_, asks := x.Request.Find("Access-Control-Request-Method")
	return asks && x.Method == "OPTIONS" && x.Request.Has(exchange.Origin) && x.RequestLength == 0
}

// find is the document's item for a canonical path.
func (p *Policy) find(c *openapi.Check, path string) *openapi.Item {
	if p.BasePath != "" {
		rest, ok := below(path, strings.TrimSuffix(p.BasePath, "/"))
		if !ok {
			return nil
		}
		return p.api.Find(c, rest)
	}
	if rest, ok := below(path, p.strip); ok { // else nothing is stripped
		path = rest
	}
	for _, base := range p.api.Bases {
		if rest, ok := below(path, base); ok {
			if item := p.api.Find(c, rest); item != nil {
				return item
			}
		}
	}
	return nil
}

// below is what follows a prefix of whole segments.
func below(path, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, prefix)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// checkBody checks the body, and leaves it to be read again.
func (j *judge) checkBody() (*exchange.Fault, error) {
	x, p := j.x, j.p
	there := x.RequestBody != nil && x.RequestLength != 0
	content, verdict := j.op.Content(x, there)
	if there && x.RequestLength < 0 && verdict != openapi.Readable && verdict != openapi.Unchecked {
		_, empty, _, err := p.store.room().Take(x, 0) // one that doesn't say its length may have none
		if err != nil {
			return nil, err
		}
		if empty {
			content, verdict = j.op.Content(x, false)
		}
	}
	j.body = verdict
	switch verdict {
	case openapi.Unchecked:
		return nil, nil
	case openapi.Missing:
		j.c.Add("body", "is required")
		return nil, nil
	case openapi.Superfluous:
		j.c.Add("body", "isn't allowed here")
		return nil, nil
	case openapi.WrongType, openapi.WrongCoding:
		return fault(exchange.UnsupportedMedia, verdict.String()), nil
	}
	if x.RequestLength > p.Body && p.Mode == "block" {
		return j.tooLarge(), nil // before it is asked for
	}
	b, whole, place, err := p.store.room().Take(x, p.Body)
	defer place.Leave()
	switch {
	case err != nil:
		return j.unread(err)
	case !whole:
		return j.tooLarge(), nil
	case len(b) == 0:
		if _, v := j.op.Content(x, false); v == openapi.Missing {
			j.c.Add("body", "is required")
		}
		return nil, nil
	}
	// The body isn't changed while the exchange lives, and what is checked is
	// forgotten with it.
	j.c.Body(content, unsafe.String(unsafe.SliceData(b), len(b)))
	return nil, nil
}

// unread is what becomes of a body that couldn't be taken. Mode report goes on
// without what there was no room or no patience for; a body that is broken is so
// for the service, too.
func (j *judge) unread(err error) (*exchange.Fault, error) {
	var f *exchange.Fault
	if !errors.As(err, &f) {
		return nil, err
	}
	switch f.Kind {
	case exchange.RateLimited, exchange.Overloaded:
		return fault(f.Kind, f.Err.Error()), nil
	default:
		return nil, err
	}
}

func (j *judge) tooLarge() *exchange.Fault {
	return fault(exchange.BodyTooLarge, "a body of more than "+strconv.FormatInt(j.p.Body, 10)+" bytes, which can't be checked")
}

// found makes a fault of what is wrong; nil: nothing is.
func (j *judge) found() *exchange.Fault {
	if len(j.c.Found) == 0 {
		return nil
	}
	f := fault(exchange.Invalid, sentence(j.c.Found))
	f.Findings = slices.Clone(j.c.Found)
	return f
}

// sentence is what is wrong, for a log.
func sentence(list []exchange.Finding) string {
	var b strings.Builder
	for i, f := range list {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Where + " " + f.What)
	}
	return b.String()
}

func fault(kind exchange.Kind, why string) *exchange.Fault {
	return &exchange.Fault{Source: exchange.FromPolicy, Kind: kind, Err: errors.New("validate: " + why)}
}

// fields tells a client what would be right.
func (j *judge) fields(f *exchange.Fault) {
	e := &j.x.ResponseEdits
	switch f.Kind {
	case exchange.RateLimited:
		e.Set("Retry-After", "1")
	case exchange.MethodNotAllowed: // RFC 9110, 15.5.6
		e.Set("Allow", j.item.Allow)
	case exchange.UnsupportedMedia: // RFC 9110, 15.5.16; each where it is to blame alone (12.5.3)
		if j.body == openapi.WrongCoding {
			e.Set("Accept-Encoding", "identity")
		} else {
			e.Set("Accept", j.op.Accept())
		}
	}
}
