package usage

import "slices"

// Over is the start before which rows of a span are over: what comes late is
// none of the rule then, and folded by itself.
func Over(s Span, now int64) int64 {
	if s == Hour {
		return s.Floor(now - 600)
	}
	return s.Floor(now - 120)
}

// Fold adds rows up to those of a span.
func Fold(rows []Row, to Span) []Row {
	sums := map[place]*Counts{}
	var out []Row
	for i := range rows {
		at := place{to.Floor(rows[i].Start), rows[i].Key}
		c := sums[at]
		if c == nil {
			c = &Counts{}
			sums[at] = c
		}
		c.Add(&rows[i].Counts)
	}
	for at, c := range sums {
		out = append(out, Row{at.start, at.Key, *c})
	}
	slices.SortFunc(out, func(a, b Row) int { return place{a.Start, a.Key}.compare(place{b.Start, b.Key}) })
	return out
}

// Since are the rows that start at a time or after it.
func Since(rows []Row, start int64) []Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Start < start })
}
