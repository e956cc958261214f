package usage

import "slices"

// pending is what was counted and isn't in the store. It is bounded: beyond a
// number of rows, further ones are joined, which costs detail but no count.
type pending struct {
	max  int
	rows map[place]*Counts
}

// place is where a row counts.
type place struct {
	start int64
	Key
}

func newPending(most int) *pending { return &pending{max: most, rows: map[place]*Counts{}} }

// add adds counts of a key. Their histogram is copied.
func (p *pending) add(start int64, k Key, c *Counts) {
	at := p.room(place{start, k})
	to := p.rows[at]
	if to == nil {
		to = &Counts{}
		p.rows[at] = to
	}
	to.Add(c)
}

// room is where a row may count: its own place, or, without room, one that it
// shares. First the minute becomes the first of its hour, then the consumer
// becomes Other, then all else goes but the class of the status.
func (p *pending) room(at place) place {
	if p.rows[at] != nil || len(p.rows) < p.max {
		return at
	}
	at.start = Hour.Floor(at.start)
	if p.rows[at] != nil {
		return at
	}
	if at.Consumer = Other; p.rows[at] != nil || len(p.rows) < p.max+p.max/2 {
		return at
	}
	if at = (place{at.start, Key{Consumer: Other, Class: at.Class}}); p.rows[at] != nil || len(p.rows) < 2*p.max {
		return at
	}
	at.start = 0
	for o := range p.rows { // any place that is there will do
		if o.Key == at.Key {
			return o
		}
	}
	return at
}

// take empties it, and returns its rows in order.
func (p *pending) take() []Row {
	list := p.list()
	p.rows = map[place]*Counts{} // a large one would stay large
	return list
}

// list are its rows in order. They share its histograms.
func (p *pending) list() []Row {
	list := make([]Row, 0, len(p.rows))
	for at, c := range p.rows {
		list = append(list, Row{at.start, at.Key, *c})
	}
	slices.SortFunc(list, func(a, b Row) int { return place{a.Start, a.Key}.compare(place{b.Start, b.Key}) })
	return list
}
