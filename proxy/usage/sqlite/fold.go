package sqlite

import (
	"context"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// together is how many rows a transaction folds. It is short, so that a flush
// needn't wait.
const together = 2000

// Fold adds minutes and hours that are over to the next span, and forgets what
// was kept long enough.
func (s *Store) Fold(ctx context.Context, now time.Time, keep usage.Retention) (more bool, err error) {
	defer guard(&err)
	s.conn.SetInterrupt(ctx)
	for span := usage.Minute; span < usage.Day && err == nil && !more; span++ {
		more, err = s.fold(span, now.Unix(), keep[span])
	}
	for span := usage.Minute; span <= usage.Day && err == nil && !more; span++ {
		more, err = s.forget(span, now.Add(-keep[span]).Unix())
	}
	return more, explain(s.path, err)
}

// fold adds the first open rows of a span that are over to the next one.
func (s *Store) fold(span usage.Span, now int64, keep time.Duration) (more bool, err error) {
	over := []any{int64(span), usage.Over(span, now), int64(together)}
	const where = "span = ? AND open = 1 AND start < ?"
	if n, err := s.number("SELECT EXISTS (SELECT 1 FROM usage WHERE "+where+")", over[:2]...); err != nil || n == 0 {
		return false, err
	}
	err = s.within(func() error {
		var rows []usage.Row
		err := s.rows("usage", where+" ORDER BY span, open, start, consumer, route, service, class LIMIT ?", over, func(r *usage.Row) error {
			rows = append(rows, usage.Row{Start: r.Start, Key: r.Key})
			rows[len(rows)-1].Counts.Add(&r.Counts)
			return nil
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		more = len(rows) == together
		last := &rows[len(rows)-1]
		err = s.each("DELETE FROM usage WHERE span = ? AND open = 1 AND (start, consumer, route, service, class) <= (?,?,?,?,?)",
			[]any{int64(span), last.Start, last.Consumer, last.Route, last.Service, int64(last.Class)}, nil)
		if err != nil {
			return err
		}
		next := span + 1
		if err := s.insert(next, next < usage.Day, usage.Fold(rows, next)); err != nil {
			return err
		}
		return s.insert(span, false, usage.Since(rows, now-int64(keep/time.Second)))
	})
	return more, err
}

// forget removes the first rows of a span that start before a time.
func (s *Store) forget(span usage.Span, before int64) (more bool, err error) {
	first, err := s.number("SELECT coalesce(min(start), -1) FROM usage WHERE span = ? AND open = 0", int64(span))
	if err != nil || first < 0 || first >= before {
		return false, err
	}
	to := min(before, first+span.Seconds()*32)
	err = s.each("DELETE FROM usage WHERE span = ? AND open = 0 AND start < ?", []any{int64(span), to}, nil)
	return to < before, err
}
