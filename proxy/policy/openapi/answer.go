package openapi

import (
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/policy/document"
)

// answer is a response that an operation may have.
type answer struct {
	media []*media // none: nothing is said of its body
}

func (r *reader) answers(n *document.Node) map[string]*answer {
	out := map[string]*answer{}
	if n == nil {
		return out
	}
	if err := n.Want("responses", document.Map); err != nil {
		r.fail(err)
		return out
	}
	for i, status := range n.Keys {
		if len(status) > 2 && status[:2] == "x-" {
			continue
		}
		if code, err := strconv.Atoi(status); status != "default" && (err != nil || code < 100 || code > 599) && !isRange(status) {
			r.fail(n.Items[i].Errorf("%q isn't a status: it has to be like 200, 2XX or default", status))
			continue
		}
		one, err := r.doc.Follow(n.Items[i])
		if err != nil {
			r.fail(err)
			continue
		}
		r.fields(one, "field of a response", "description", "headers", "content", "links")
		a := &answer{}
		if c := one.Get("content"); c != nil && c.Kind == document.Map {
			a.media = r.mediaTypes(c, false)
		}
		out[status] = a
	}
	return out
}

func isRange(s string) bool {
	return len(s) == 3 && s[0] >= '1' && s[0] <= '5' && s[1:] == "XX"
}

// Response says what a response is to be checked by, and what is wrong with its
// status and media type already. ok tells that there is something to check in
// its body, which is JSON then.
func (o *Operation) Response(c *Check, status int, contentType string) (content Content, ok bool) {
	text := strconv.Itoa(status)
	a := o.answers[text]
	if a == nil {
		a = o.answers[text[:1]+"XX"]
	}
	if a == nil {
		a = o.answers["default"]
	}
	if a == nil {
		c.Add("response", "the status "+text+" isn't among its responses")
		return Content{}, false
	}
	if len(a.media) == 0 || contentType == "" {
		return Content{}, false
	}
	name, params, fine := mediaType(contentType)
	m := find(a.media, name, params)
	if !fine || m == nil {
		c.Add("response", "its media type isn't among those of "+text)
		return Content{}, false
	}
	return Content{media: m, kind: jsonBody}, m.kind == jsonBody && m.schema != nil
}

// Answer checks the body of a response.
func (c *Check) Answer(o Content, text string) {
	c.Response = true
	if err := c.value.Parse(text); err != nil {
		c.Add("response", err.Error())
		return
	}
	c.Check(o.media.schema, &c.value, "response")
}
