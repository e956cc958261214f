package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/traffic"
)

// topView is what a person wants to see.
type topView struct {
	by      byte // r, s, c: routes, services, consumers
	sort    byte // t, e, l, b, n, a
	turned  bool
	scrolls int
}

// key does what a key says.
func (v *topView) key(k byte) {
	switch k {
	case 'r', 's', 'c':
		v.by, v.scrolls = k, 0
	case 't', 'e', 'l', 'b', 'n', 'a':
		v.turned = v.sort == k && !v.turned
		v.sort, v.scrolls = k, 0
	case keyDown:
		v.scrolls++
	case keyUp:
		v.scrolls--
	case keyPageDown:
		v.scrolls += 10
	case keyPageUp:
		v.scrolls -= 10
	}
	v.scrolls = max(v.scrolls, 0)
}

// topPicture is how things are at a moment.
type topPicture struct {
	by       byte // what its rows are
	overview admin.Overview
	total    traffic.Figures
	window   float64
	rows     []topRow
	note     string // instead of rows
}

// topRow is a route, service or consumer.
type topRow struct {
	name, more string
	figures    traffic.Figures
	window     float64
	all        uint64 // requests since the start
}

// count is how many rows there are; p may be nil.
func (p *topPicture) count() int {
	if p == nil {
		return 0
	}
	return len(p.rows)
}

func (p *topPicture) sort(v topView) {
	slices.SortStableFunc(p.rows, func(a, b topRow) int {
		f, g := &a.figures, &b.figures
		var c int
		switch v.sort {
		case 'e':
			c = cmp.Compare(g.Errors, f.Errors)
		case 'l':
			c = cmp.Compare(g.P99, f.P99)
		case 'b':
			c = cmp.Compare(g.BytesIn+g.BytesOut, f.BytesIn+f.BytesOut)
		case 'n':
			c = strings.Compare(a.name, b.name)
		case 'a':
			c = cmp.Compare(b.all, a.all)
		default:
			c = cmp.Compare(g.Rate, f.Rate)
		}
		if v.turned {
			c = -c
		}
		return cmp.Or(c, strings.Compare(a.name, b.name))
	})
}

// columns say where a table's are.
type columns struct {
	name   int  // characters for it
	narrow bool // bytes in and out are one
}

const (
	topNumbers = 58 // characters of the figures, 10 fewer when it is narrow
	topMore    = 11 // of what is behind them, at least
)

// columnsFor is for a terminal; width 0: for a file.
func columnsFor(width int) columns {
	if width == 0 {
		return columns{name: 32}
	}
	c := columns{narrow: width < 100}
	room := width - topNumbers - topMore
	if c.narrow {
		room += 10
	}
	c.name = max(8, min(40, room))
	return c
}

// line puts cells into their columns.
func (c columns) line(name, rate, errors, p50, p99, in, out, all, more string) string {
	both := fmt.Sprintf("%9s %9s", in, out)
	if c.narrow {
		both = fmt.Sprintf("%9s", out)
	}
	return strings.TrimRight(fmt.Sprintf("%-*s %7s %7s %7s %7s %s %6s  %s", c.name, name, rate, errors, p50, p99, both, all, more), " ")
}

// lines is the picture for a terminal of that size; width and height 0: for a file.
func (p *topPicture) lines(v topView, width, height int) []string {
	p.sort(v)
	out := p.summary()
	c := columnsFor(width)
	head := map[byte]string{'r': "ROUTE", 's': "SERVICE", 'c': "CONSUMER"}[p.by]
	more := map[byte]string{'r': "TO", 's': "INSTANCES"}[p.by]
	sent := "OUT"
	if c.narrow {
		sent = "BYTES"
	}
	out = append(out, c.line(head, "REQ/S", "ERRORS", "P50", "P99", "IN", sent, "ALL", more))
	rows := p.rows
	if height > 0 {
		room := max(height-len(out)-2, 1) // the keys, and a line before them
		from := min(v.scrolls, max(len(rows)-room, 0))
		rows = rows[from:min(from+room, len(rows))]
	}
	for _, r := range rows {
		f := &r.figures
		in, sent := byteRate(f.BytesIn, r.window), byteRate(f.BytesOut, r.window)
		if c.narrow {
			sent = byteRate(f.BytesIn+f.BytesOut, r.window)
		}
		out = append(out, c.line(cut(r.name, c.name), shortNumber(f.Rate), percent(f.Errors, f.Requests), latency(f.P50), latency(f.P99), in, sent,
			shortNumber(float64(r.all)), printable(r.more)))
	}
	if p.note != "" {
		out = append(out, p.note)
	} else if len(p.rows) == 0 {
		out = append(out, "none")
	}
	if height == 0 {
		return out
	}
	for len(out) < height-1 {
		out = append(out, "")
	}
	out = append(out[:max(height-1, 0)], fmt.Sprintf("r routes  s services  c consumers   sort: t e l b n a (%c)   q quit", v.sort))
	for i := range out {
		out[i] = cut(out[i], width)
	}
	return out
}

// summary is what is above the table.
func (p *topPicture) summary() []string {
	o := &p.overview
	state := "ready"
	if !o.Ready.Ready {
		state = "NOT READY"
	}
	if o.Ready.Reason != "" {
		state += ": " + o.Ready.Reason
	}
	conns := 0
	for _, l := range o.Listeners {
		conns += l.Connections
	}
	f := &p.total
	return []string{
		fmt.Sprintf("sidegate %s, up %s, %s", o.Version, o.Now.Sub(o.Started).Round(time.Second), state),
		fmt.Sprintf("requests %s/s, errors %s, p50 %s, p99 %s, in %s, out %s", shortNumber(f.Rate), percent(f.Errors, f.Requests), latency(f.P50), latency(f.P99),
			byteRate(f.BytesIn, p.window), byteRate(f.BytesOut, p.window)),
		fmt.Sprintf("in flight %d, connections %d, instances %d (%d down), memory %s of %s, bans %d", o.InFlight, conns,
			o.Services.Instances, o.Services.Down, size(o.Memory.Used), size(o.Memory.Limit), o.Bans),
		"",
	}
}

// cut is text of at most n characters.
func cut(s string, n int) string {
	s = printable(s)
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	if n < 2 {
		return string(r[:max(n, 0)])
	}
	return string(r[:n-1]) + "…"
}

// shortNumber has three digits, and k, M or G.
func shortNumber(n float64) string {
	for _, u := range []struct {
		unit string
		size float64
	}{{"G", 1e9}, {"M", 1e6}, {"k", 1e3}} {
		if n >= 0.9995*u.size {
			return threeDigits(n/u.size) + u.unit
		}
	}
	return threeDigits(n)
}

func threeDigits(n float64) string {
	switch {
	case n == 0:
		return "0"
	case n >= 99.95:
		return fmt.Sprintf("%.0f", n)
	case n >= 9.995:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", n), ".0")
	default:
		return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", n), "0"), ".")
	}
}

func percent(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	return threeDigits(100*float64(part)/float64(whole)) + "%"
}

func latency(seconds float64) string {
	switch {
	case seconds == 0:
		return "-"
	case seconds < 1e-3:
		return threeDigits(seconds*1e6) + "µs"
	case seconds < 1:
		return threeDigits(seconds*1e3) + "ms"
	default:
		return threeDigits(seconds) + "s"
	}
}

func byteRate(n uint64, seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	v := float64(n) / seconds
	units := []string{"B/s", "KiB/s", "MiB/s", "GiB/s", "TiB/s"}
	i := 0
	for ; v >= 1023.5 && i < len(units)-1; i++ {
		v /= 1024
	}
	return threeDigits(v) + units[i]
}
