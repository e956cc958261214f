package proxy

import (
	"encoding/json"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// TestFindings: what is wrong with a request is told as JSON, whatever it is.
func TestFindings(t *testing.T) {
	type finding struct{ Where, What string }
	for _, list := range [][]exchange.Finding{
		nil,
		{{Where: "query.limit", What: "has to be at most 100"}},
		{{Where: "body/a\"\\\n\x00é💩", What: "\xff"}, {Where: "", What: `has to be one of "a", "b"`}},
	} {
		x := &exchange.Exchange{RequestID: "r-1"}
		refuse(x, &exchange.Fault{Source: exchange.FromPolicy, Kind: exchange.Invalid, Findings: list})
		b, err := io.ReadAll(x.ResponseBody)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Type      string
			Status    int
			RequestID string `json:"request_id"`
			Errors    []finding
		}
		if err := json.Unmarshal(b, &got); err != nil || got.Status != 400 || got.RequestID != "r-1" || got.Type != "urn:sidegate:problem:invalid-request" {
			t.Errorf("%s: %v", b, err)
		}
		var want []finding
		for _, f := range list {
			if f.What == "\xff" {
				f.What = "\ufffd"
			}
			want = append(want, finding(f))
		}
		if diff := cmp.Diff(want, got.Errors); diff != "" {
			t.Errorf("errors (-want +got):\n%s", diff)
		}
	}
}
