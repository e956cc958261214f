package compress

import (
	"io"
	"runtime/debug"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestAllocatesNothing: a response that isn't compressed costs no allocation,
// nor does one that is, with an encoder that has been used before; the library
// of zstd makes one for each stream.
func TestAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector has pools forget at random")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // or the pools would be emptied
	for _, tt := range []struct {
		name, accept string
		most         float64
	}{{"identity", "identity", 0}, {"zstd", "zstd", 1}, {"br", "br", 0}, {"gzip", "gzip", 0}} {
		p := newPolicy(t, all)
		x := policytest.Exchange(t, "GET https://api.example.com/", "Accept-Encoding: "+tt.accept)
		src := &pieces{list: []string{text, text}, err: io.EOF}
		policytest.Answer(x, 200, "", "Content-Type: text/html", `ETag: "abcdefgh"`, "Vary: Origin")
		buf := make([]byte, 4096)
		if n := testing.AllocsPerRun(100, func() {
			x.ResponseEdits.Reset()
			src.at, x.ResponseBody, x.ResponseLength = 0, src, -1
			_, _ = p.Request(x)
			p.Encode(x)
			for {
				if _, err := x.ResponseBody.Read(buf); err != nil {
					break
				}
			}
			p.Finish(x)
		}); n > tt.most {
			t.Errorf("%s: %v allocations", tt.name, n)
		}
	}
}
