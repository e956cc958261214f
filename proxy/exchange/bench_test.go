package exchange

import "testing"

// BenchmarkCanonicalise brings targets into their one spelling.
func BenchmarkCanonicalise(b *testing.B) {
	for _, bb := range []struct{ name, host, target string }{
		{"usual", "api.example.com", "/orders/7/items?page=2"},
		{"port", "api.example.com:8443", "/"},
		{"escaped", "API.example.com.", "/a//b/./c/%7Euser/%c3%a9"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			x, c := &Exchange{}, &Conn{Scheme: "https"}
			b.ReportAllocs()
			for b.Loop() {
				x.Reset(HTTP11, c, nil)
				x.RawHost, x.RawTarget = bb.host, bb.target
				if f := x.Canonicalise(); f != nil {
					b.Fatal(f)
				}
			}
		})
	}
}
