package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
)

func picture(routes int) *topPicture {
	p := &topPicture{by: 'r', window: 10, total: traffic.Figures{Requests: 1234, Rate: 123.4, Errors: 12, P50: 0.0012, P99: 1.5, BytesOut: 12345678}}
	p.overview.Version, p.overview.Ready.Ready = "1.2.3", true
	p.overview.Started = time.Unix(1000, 0)
	p.overview.Now = time.Unix(1000+3661, 0)
	for i := range routes {
		p.rows = append(p.rows, topRow{
			name: fmt.Sprintf("route-%03d", i), more: "orders", window: 10, all: uint64(i),
			figures: traffic.Figures{Requests: uint64(i), Rate: float64(i), Errors: uint64(routes - i), P99: 0.01},
		})
	}
	return p
}

// TestTopFits: no picture is larger than its terminal, and 80 by 24 has what one
// wants to know.
func TestTopFits(t *testing.T) {
	p := picture(100)
	p.rows[7].name = strings.Repeat("é", 200) + "\x1b[2J"
	for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {20, 3}, {1, 1}} {
		lines := p.lines(topView{by: 'r', sort: 't'}, size[0], size[1])
		if len(lines) != size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > size[0] || strings.ContainsRune(l, 0x1b) {
				t.Errorf("%v: %d characters: %q", size, n, l)
			}
		}
	}
	text := strings.Join(p.lines(topView{by: 'r', sort: 't'}, 80, 24), "\n")
	for _, want := range []string{"sidegate 1.2.3, up 1h1m1s, ready", "requests 123/s, errors 0.97%, p50 1.2ms, p99 1.5s", "out 1.18MiB/s", "\nroute-099 ", " BYTES ", " orders\n", "q quit"} {
		if !strings.Contains(text, want) {
			t.Errorf("without %q:\n%s", want, text)
		}
	}
}

func TestTopKeys(t *testing.T) {
	first := func(v topView) string { return picture(100).lines(v, 80, 24)[5] }
	v := topView{by: 'r', sort: 't'}
	for _, tt := range []struct{ keys, want string }{
		{"", "route-099"},
		{"t", "route-000"},
		{"t", "route-099"},
		{"e", "route-000"},
		{"n", "route-000"},
		{"n", "route-099"},
		{"a", "route-099"},
		{"\x1b[B\x1b[B", "route-097"},
		{"\x1b[A", "route-098"},
		{"\x1b[6~", "route-088"},
		{"\x1b[5~\x1b[5~", "route-099"},
		{"\x1b[Z?", "route-099"},
	} {
		for _, k := range decodeKeys([]byte(tt.keys)) {
			v.key(k)
		}
		if got := first(v); !strings.HasPrefix(got, tt.want) {
			t.Errorf("after %q the first is %q, want %s", tt.keys, got, tt.want)
		}
	}
}

func TestUsed(t *testing.T) {
	r := &used{requests: 100, errors: 2, latency: map[uint64]uint64{1000: 60, 2000: 39, 5000: 1}}
	r.less(&used{requests: 10, errors: 2, latency: map[uint64]uint64{1000: 10}})
	f := r.figures(2)
	if f.Rate != 45 || f.Errors != 0 || f.P50 != 0.001 || f.P99 != 0.005 {
		t.Errorf("%+v", f)
	}
}
