package waf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// sample is a request whose cost stands in README.md.
type sample struct {
	name string
	x    func() *exchange.Exchange
}

func samples(t testing.TB) (list []sample) {
	var doc strings.Builder
	doc.WriteString(`{"id":4711,"lines":[`)
	for i := range 10 {
		fmt.Fprintf(&doc, `{"sku":"A-%d","title":"Blue shoes, size %d","price":"49.90","count":%d},`, i, 36+i, i)
	}
	doc.WriteString(`{}],"note":"please ring twice"}`)
	words := strings.Fields("the quick brown fox jumps over a lazy dog while seven guests bring flowers and a large basket of apples for dinner")
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same text each time
	prose := func(n int) string {
		var b strings.Builder
		for b.Len() < n {
			b.WriteString(words[r.IntN(len(words))] + " ")
		}
		return b.String()[:n]
	}
	var many strings.Builder
	many.WriteString("{")
	for i := range 900 {
		fmt.Fprintf(&many, `"field%d":%q,`, i, prose(110))
	}
	many.WriteString(`"z":1}`)
	for _, l := range []struct {
		name, line string
		more       []string
	}{
		{"GET small", "GET /orders?status=open&page=2", []string{"Authorization: Bearer abcdef", "Accept-Encoding: gzip", "Cookie: session=3f2a9c1b7d"}},
		{"POST JSON 1 KiB", "POST /orders", []string{asJSON, "", doc.String()}},
		{"POST JSON 128 KiB of one text", "POST /notes", []string{asJSON, "", `{"text":"` + prose(127<<10) + `"}`}},
		{"POST JSON 112 KiB of 900 texts", "POST /notes", []string{asJSON, "", many.String()}},
		{"POST multipart with a file of 120 KiB", "POST /upload", []string{asPart, "", part(`name="file"; filename="photo.jpg"`+"\r\nContent-Type: image/jpeg", string(bytes.Repeat([]byte("\xff\xd8\x00\x01"), 30<<10)))}},
	} {
		x := request(t, l.line, l.more...)
		var body []byte
		if x.RequestBody != nil {
			body, _ = x.RequestBody.Next()
		}
		list = append(list, sample{l.name, func() *exchange.Exchange {
			if body != nil {
				x.RequestBody = exchange.Bytes(body)
			}
			return x
		}})
	}
	return list
}

func BenchmarkInspect(b *testing.B) {
	for paranoia := 1; paranoia <= 4; paranoia += 3 {
		p := newPolicy(b, shared(), fmt.Sprintf(`waf { paranoia = %d }`, paranoia))
		for _, l := range samples(b) {
			b.Run(fmt.Sprintf("%s/paranoia %d", l.name, paranoia), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.Request(l.x()); err != nil && paranoia == 1 {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
