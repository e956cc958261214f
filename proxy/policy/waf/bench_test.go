package waf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// loads are requests whose cost is known from README.md.
func loads(t testing.TB) []struct {
	name string
	x    func() *exchange.Exchange
} {
	var json1 strings.Builder
	json1.WriteString(`{"id":4711,"lines":[`)
	for i := range 10 {
		fmt.Fprintf(&json1, `{"sku":"A-%d","title":"Blue shoes, size %d","price":"49.90","count":%d},`, i, 36+i, i)
	}
	json1.WriteString(`{}],"note":"please ring twice"}`)
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
	var deep strings.Builder
	for i := range 60 {
		fmt.Fprintf(&deep, `{"k%d":[`, i)
	}
	_ = deep
	name := "GET small"
	_ = name
	list := []struct {
		name, line string
		more       []string
	}{
		{"GET small", "GET /orders?status=open&page=2", []string{"Authorization: Bearer abcdef", "Accept-Encoding: gzip", "Cookie: session=3f2a9c1b7d"}},
		{"POST JSON 1 KiB", "POST /orders", []string{asJSON, "", json1.String()}},
		{"POST JSON 128 KiB of one text", "POST /notes", []string{asJSON, "", `{"text":"` + prose(127<<10) + `"}`}},
		{"POST JSON 112 KiB of 900 texts", "POST /notes", []string{asJSON, "", many.String()}},
		{"POST multipart with a file of 120 KiB", "POST /upload", []string{asPart, "", part(`name="file"; filename="photo.jpg"`+"\r\nContent-Type: image/jpeg", string(bytes.Repeat([]byte("\xff\xd8\x00\x01"), 30<<10)))}},
	}
	var out []struct {
		name string
		x    func() *exchange.Exchange
	}
	for _, l := range list {
		x := request(t, l.line, l.more...)
		body := []byte(nil)
		if x.RequestBody != nil {
			body, _ = x.RequestBody.Next()
		}
		out = append(out, struct {
			name string
			x    func() *exchange.Exchange
		}{l.name, func() *exchange.Exchange {
			if body != nil {
				x.RequestBody = exchange.Bytes(body)
			}
			return x
		}})
	}
	return out
}

func BenchmarkInspect(b *testing.B) {
	for paranoia := 1; paranoia <= 4; paranoia += 3 {
		p := newPolicy(b, shared(), fmt.Sprintf(`waf { paranoia = %d }`, paranoia))
		for _, l := range loads(b) {
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
