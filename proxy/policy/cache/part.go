package cache

import (
	"crypto/rand"
	"io"
	"strconv"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache/rules"
)

// part is a part of a body that passes: it skips what comes before, and gives the
// body up at its end.
type part struct {
	exchange.Body
	skip, left int64
}

var _ exchange.Body = (*part)(nil)

// Read returns bytes of the part.
func (r *part) Read(p []byte) (int, error) {
	for r.left > 0 && len(p) > 0 {
		n, err := r.Body.Read(p)
		b, done := r.cut(p[:n])
		n = copy(p, b)
		switch {
		case done:
			return n, io.EOF
		case err == io.EOF: // it is shorter than it was said to be
			return n, io.ErrUnexpectedEOF
		case n > 0 || err != nil:
			return n, err
		}
	}
	if r.left > 0 {
		return 0, nil
	}
	return 0, io.EOF
}

// Next returns what of the part is in memory.
func (r *part) Next() ([]byte, bool) {
	if r.left == 0 {
		return nil, true
	}
	b, _ := r.Body.Next()
	return r.cut(b)
}

// cut is what of the next bytes of the body belongs to the part; done: it ends so.
func (r *part) cut(b []byte) ([]byte, bool) {
	n := min(r.skip, int64(len(b)))
	r.skip -= n
	b = b[n:]
	n = min(r.left, int64(len(b)))
	r.left -= n
	return b[:n:n], r.left == 0
}

// pieces are a body of slices that stay as they are.
type pieces struct{ list [][]byte }

var _ exchange.Body = (*pieces)(nil)

// Read copies from the pieces.
func (r *pieces) Read(p []byte) (int, error) {
	n := 0
	for len(r.list) > 0 && n < len(p) {
		m := copy(p[n:], r.list[0])
		n += m
		if r.list[0] = r.list[0][m:]; len(r.list[0]) == 0 {
			r.list = r.list[1:]
		}
	}
	if len(r.list) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// Next returns the next piece.
func (r *pieces) Next() ([]byte, bool) {
	if len(r.list) == 0 {
		return nil, true
	}
	b := r.list[0]
	r.list = r.list[1:]
	return b, len(r.list) == 0
}

// Close gives the rest up.
func (r *pieces) Close() error {
	r.list = nil
	return nil
}

// multipart answers with several parts of content (RFC 9110, 14.6), each of which
// says its type and where it stands.
func multipart(x *exchange.Exchange, spans []rules.Span, contentType string, content []byte) {
	boundary := rand.Text()
	length, list := int64(0), make([][]byte, 0, 2*len(spans)+1)
	add := func(b []byte) { list, length = append(list, b), length+int64(len(b)) }
	for i, s := range spans {
		b := make([]byte, 0, 160)
		if i > 0 {
			b = append(b, "\r\n"...)
		}
		b = append(append(append(b, "--"...), boundary...), "\r\n"...)
		if contentType != "" {
			b = append(append(append(b, "Content-Type: "...), contentType...), "\r\n"...)
		}
		b = contentRange(append(b, "Content-Range: "...), s, int64(len(content)))
		add(append(b, "\r\n\r\n"...))
		add(content[s.From:s.To:s.To])
	}
	add([]byte("\r\n--" + boundary + "--\r\n"))
	x.ResponseBody, x.ResponseLength = &pieces{list}, length
	x.ResponseEdits.SetID(exchange.ContentType, "Content-Type", "multipart/byteranges; boundary="+boundary)
}

func contentRange(b []byte, s rules.Span, size int64) []byte {
	b = strconv.AppendInt(append(b, "bytes "...), s.From, 10)
	b = strconv.AppendInt(append(b, '-'), s.To-1, 10)
	return strconv.AppendInt(append(b, '/'), size, 10)
}

// setContentRange says which part of a content of that size the response is, or,
// with none, that there is none.
func setContentRange(x *exchange.Exchange, s rules.Span, size int64) {
	var room [64]byte
	b := append(room[:0], "bytes */"...)
	if s.Len() > 0 {
		b = contentRange(room[:0], s, size)
	} else {
		b = strconv.AppendInt(b, size, 10)
	}
	x.ResponseEdits.SetID(exchange.ContentRange, "Content-Range", x.Keep(b))
}

// cut gives the client the parts that it wants of the response, which the service
// was asked for as a whole. content is nil while it is on its way.
func (l *look) cut(x *exchange.Exchange, v rules.Validators, content []byte) {
	if x.Method != "GET" || x.Status != 200 || x.ResponseLength < 0 || !rules.Parts(&x.Request) || x.ResponseBody == nil {
		return
	}
	size := x.ResponseLength
	switch verdict, list := rules.Range(&x.Request, v, size, nil); {
	case verdict == rules.Unsatisfiable:
		x.Status, x.Stored = 416, nil
		x.ResponseBody, x.ResponseLength = &part{Body: x.ResponseBody}, 0
		dropContent(&x.Response)
		setContentRange(x, rules.Span{}, size)
	case verdict == rules.Part && len(list) == 1:
		s := list[0]
		x.Status, x.Stored = 206, nil
		x.ResponseBody, x.ResponseLength = &part{x.ResponseBody, s.From, s.Len()}, s.Len()
		setContentRange(x, s, size)
	case verdict == rules.Part && content != nil:
		x.Status, x.Stored = 206, nil
		_ = x.ResponseBody.Close() // it is content, too
		multipart(x, list, x.Response.Get(exchange.ContentType), content)
	}
}
