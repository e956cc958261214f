package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

// together is how many rows a transaction folds.
const together = 2000

// Fold adds minutes and hours that are over to the next span, and forgets what
// was kept long enough; unless another node is at it.
func (s *Store) Fold(ctx context.Context, now time.Time, keep usage.Retention) (more bool, err error) {
	if err := s.connect(ctx); err != nil {
		return false, err
	}
	err = s.within(ctx, func() error {
		mine, err := s.ask(ctx, `SELECT pg_try_advisory_xact_lock($1::bigint)::int::bigint`, number(lockFold))
		if err != nil || mine == 0 {
			return err
		}
		for span := usage.Minute; span < usage.Day && err == nil && !more; span++ {
			more, err = s.fold(ctx, span, now.Unix(), keep[span])
		}
		for span := usage.Minute; span <= usage.Day && err == nil && !more; span++ {
			more, err = s.forget(ctx, span, now.Add(-keep[span]).Unix())
		}
		if err == nil && !more {
			_, err = s.each(ctx, forgetRuns, nil, nothing)
		}
		return err
	})
	if err != nil {
		s.hangUp()
		return false, fmt.Errorf("adding up: %w", err)
	}
	return more, nil
}

// fold adds the first open rows of a span that are over to the next one, whose
// rows nobody else changes.
func (s *Store) fold(ctx context.Context, span usage.Span, now int64, keep time.Duration) (more bool, err error) {
	rows, err := s.take(ctx, takeOver, small(int64(span)), number(usage.Over(span, now)), number(together))
	if err != nil || len(rows) == 0 {
		return false, err
	}
	next := span + 1
	open := next < usage.Day
	sums := usage.Fold(rows, next)
	before, err := s.take(ctx, takeKeys, append(keys(sums), small(int64(next)), boolean(open))...)
	if err == nil {
		err = s.insert(ctx, next, open, usage.Fold(append(sums, before...), next))
	}
	if err == nil {
		err = s.insert(ctx, span, false, usage.Since(usage.Fold(rows, span), now-int64(keep/time.Second)))
	}
	return len(rows) == together, err
}

// take runs a statement that removes rows and returns them.
func (s *Store) take(ctx context.Context, sql string, args ...[]byte) (rows []usage.Row, err error) {
	_, err = s.each(ctx, sql, args, func(values [][]byte) error {
		var r usage.Row
		err := scan(&r, values)
		rows = append(rows, r)
		return err
	})
	return rows, err
}

// forget removes the first rows of a span that start before a time.
func (s *Store) forget(ctx context.Context, span usage.Span, before int64) (more bool, err error) {
	at, err := s.ask(ctx, first, small(int64(span)))
	if err != nil || at < 0 || at >= before {
		return false, err
	}
	to := min(before, at+span.Seconds()*32)
	_, err = s.each(ctx, forgetRows, [][]byte{small(int64(span)), number(to)}, nothing)
	return to < before, err
}
