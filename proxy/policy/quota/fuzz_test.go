package quota

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// FuzzRecord: no line panics, and what is read is written the same.
func FuzzRecord(f *testing.F) {
	for _, r := range []record{
		{id: id{"route:r", "consumer=a", exchange.Month}, start: 1793491200, used: 7, limit: 1000},
		{id: id{"name:n#2", "header:X=\"é\xff\n\x00 ", exchange.Hour}, start: 1, used: -1, limit: 1},
		{id: id{"", "", exchange.Day}, start: 1 << 40},
	} {
		f.Add(string(appendRecord(nil, &r)))
	}
	f.Add("")
	f.Add("00000000 1 day 1 1 \"\" \"\"")
	f.Fuzz(func(t *testing.T, line string) {
		r, ok := parseRecord(strings.TrimSuffix(line, "\n"))
		if !ok {
			return
		}
		again, ok := parseRecord(strings.TrimSuffix(string(appendRecord(nil, &r)), "\n"))
		if d := cmp.Diff(r, again, cmp.AllowUnexported(record{}, id{}), cmp.Comparer(func(a, b *entry) bool { return a == b })); !ok || d != "" {
			t.Errorf("%q: %v %s", line, ok, d)
		}
	})
}
