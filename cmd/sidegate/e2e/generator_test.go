package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// generator makes messages.
type generator struct{ *rand.Rand }

func (g generator) pick(from ...string) string { return from[g.IntN(len(from))] }

// target makes a request target, and what is to become of it.
func (g generator) target() (raw, canonical string) {
	for range g.IntN(5) {
		s := [][2]string{
			{"/a", "/a"}, {"/%61~%7e", "/a~~"}, {"/%c3%a9", "/%C3%A9"}, {"/a%20b", "/a%20b"}, {"/a|b", "/a%7Cb"}, {"/.well-known", "/.well-known"},
			{"/.", ""}, {"/x/..", ""}, {"/", ""}, {"/a:b@c!$&'()*+,;=", "/a:b@c!$&'()*+,;="}, {"/\xe2\x82\xac", "/%E2%82%AC"}, {"/...", "/..."},
		}[g.IntN(12)]
		raw, canonical = raw+s[0], canonical+s[1]
	}
	end := g.pick("/end", "/")
	raw, canonical = raw+end, canonical+end
	if g.IntN(2) == 0 {
		q := "?" + g.pick("", "a=b&c=d", "a=%zz&&=", "q=1?2/3", "x='()*;:@,$", "p=/../x//", "%00=%0d%0a", "a+b=%20", "[x]={y}|^`")
		raw, canonical = raw+q, canonical+q
	}
	return raw, canonical
}

const signs = " \t!\"#,;=:()<>@[]{}abcXYZ09_.\\%\x80\xe9\xff"

const token = "abcXYZ019!#$%&'*+-^`|~"

func (g generator) value() string {
	b := make([]byte, g.IntN(30))
	for i := range b {
		b[i] = signs[g.IntN(len(signs))]
	}
	return strings.Trim(string(b), " \t")
}

// fields makes fields that have no meaning to the gateway.
func (g generator) fields(reply bool) (list [][2]string) {
	for range g.IntN(8) {
		name := g.pick("X-A", "x-a", "X-B", "Accept", "Cookie", "User-Agent", "Pragma", "X-Empty", "X-Odd_Name", "X.Odd", "")
		if reply {
			name = g.pick("X-A", "X-A", "Set-Cookie", "Set-Cookie", "ETag", "Cache-Control", "Link", "X-Odd_Name", "Vary", "")
		}
		if name == "" {
			b := []byte("X-")
			for range 1 + g.IntN(10) {
				b = append(b, token[g.IntN(len(token))])
			}
			name = string(b)
		}
		value := g.value()
		switch name {
		case "Cookie":
			value = g.pick("a=b", "c=d; e=f")
		case "User-Agent", "ETag":
			if slices.ContainsFunc(list, func(f [2]string) bool { return f[0] == name }) {
				continue // one to those who know it
			}
			value = g.pick(`"x"`, `W/"y"`)
		case "X-Empty":
			value = ""
		}
		list = append(list, [2]string{name, value})
	}
	return list
}

func (g generator) body() string {
	b := make([]byte, g.IntN(3)*g.IntN(3)*g.IntN(3000)+g.IntN(20))
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return string(b)
}

// wish is a generated request: bytes for HTTP/1.1, and how it is to be read.
type wish struct {
	raw  string
	want view
}

func (g generator) wish(host string) wish {
	raw, canonical := g.target()
	method := g.pick("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE", "PROPFIND")
	authority := g.pick(host, strings.ToUpper(host), host+":80")
	want := view{Line: method + " " + canonical, Host: strings.ToLower(authority), Fields: map[string][]string{}, Trailer: map[string][]string{}}
	var b strings.Builder
	if g.IntN(8) == 0 {
		raw = "http://" + authority + raw
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n%s: %s\r\n", method, raw, g.pick("Host", "host", "HOST"), authority)
	for _, f := range g.fields(false) {
		fmt.Fprintf(&b, "%s:%s%s%s\r\n", f[0], g.pick("", " ", "\t "), f[1], g.pick("", " ", "\t"))
		if !strings.ContainsAny(f[0], "_.") {
			want.Fields[strings.ToLower(f[0])] = append(want.Fields[strings.ToLower(f[0])], runes(f[1]))
		}
	}
	body := ""
	switch g.IntN(3) {
	case 0:
		body = g.body()
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	case 1:
		body = g.chunked(&b, &want)
	default:
		b.WriteString("\r\n")
	}
	want.Body = runes(body)
	return wish{b.String(), want}
}

func (g generator) chunked(b *strings.Builder, want *view) (body string) {
	body = g.body()
	trailers := g.IntN(2) == 0
	if trailers {
		b.WriteString("Trailer: X-T\r\n")
	}
	b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	for rest := body; rest != ""; {
		n := 1 + g.IntN(len(rest))
		fmt.Fprintf(b, "%s%x%s\r\n%s\r\n", g.pick("", "000"), n, g.pick("", ";x", `;x="y"`), rest[:n])
		rest = rest[n:]
	}
	b.WriteString("0\r\n")
	if trailers {
		v := g.value()
		fmt.Fprintf(b, "X-T: %s\r\nX_T: dropped\r\nCookie: dropped\r\n", v)
		want.Trailer["x-t"] = []string{runes(v)}
	}
	b.WriteString("\r\n")
	return body
}

func (g generator) order() order {
	o := order{Status: []int{200, 200, 200, 201, 204, 206, 304, 400, 404, 418, 500, 503, 599}[g.IntN(13)], Length: g.IntN(2) == 0}
	for _, f := range g.fields(true) {
		o.Fields = append(o.Fields, [2]string{f[0], runes(f[1])})
	}
	if o.Status == 204 || o.Status == 304 {
		o.Length = false
		return o
	}
	body := g.body() // which stands in a request's field
	for rest := body[:min(len(body), 1500)]; rest != ""; {
		n := 1 + g.IntN(len(rest))
		o.Chunks = append(o.Chunks, runes(rest[:n]))
		rest = rest[n:]
	}
	if !o.Length && len(o.Chunks) > 0 && g.IntN(2) == 0 {
		o.Trailer = [][2]string{{"X-T", runes(g.value())}}
	}
	return o
}
