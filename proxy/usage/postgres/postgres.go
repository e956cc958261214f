// Package postgres keeps the usage of a fleet in one PostgreSQL database: every
// node adds to the same rows.
//
//	rows → spool (a file, on the disk) → one transaction: the batch is noted, and its rows are added
//
// A batch is noted by its run and number in the transaction that adds its rows,
// so that one whose answer was lost isn't added again. While the database is
// away, batches wait in the spool, over restarts, too. Minutes are added up to
// hours and days by whichever node holds the lock for it.
//
// It speaks the protocol by pgconn, without database/sql, in binary. It starts
// no goroutine.
package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
	"github.com/sidegate-proxy/sidegate/proxy/secret"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

const (
	connectTime = 5 * time.Second
	retryFirst  = time.Second
	retryMost   = 10 * time.Second
)

// Deps are what a Store works with.
type Deps struct {
	Log logrus.FieldLogger
	URL secret.String
	Dir string // of the spool; "": rows are only read
	// Drains says that another process has the spool by now: batches wait in a folder
	// of their own in it, which it takes over when this process has ended.
	Drains bool
	Most   int64            // bytes in it
	Now    func() time.Time // nil: time.Now
}

// Store is a database, and the way to it. It isn't safe for concurrent use.
type Store struct {
	Deps
	config *pgconn.Config
	node   string
	spool  *spool         // nil: rows are only read
	own    *estate.Estate // that it is in; nil: it is the spool itself
	conn   *pgconn.PgConn
	err    error // why batches wait
	retry  time.Time
	pause  time.Duration
}

var _ usage.Store = (*Store)(nil)

// Open takes the spool over. It doesn't need the database.
func Open(d Deps) (*Store, error) {
	if d.Now == nil {
		d.Now = time.Now
	}
	s := &Store{Deps: d}
	var err error
	if s.config, err = Parse(d.URL); err != nil {
		return nil, err
	}
	if s.node, err = os.Hostname(); err != nil {
		s.node = "unknown"
	}
	if d.Dir == "" {
		return s, nil
	}
	dir := d.Dir
	if d.Drains {
		if s.own, err = estate.Found(d.Dir); err != nil {
			return nil, err
		}
		dir = filepath.Join(s.own.Dir(), drained)
	}
	if s.spool, err = openSpool(dir, d.Most, newRun(d.Now())); err != nil {
		if s.own != nil {
			err = errors.Join(err, s.own.Remove())
		}
		return nil, err
	}
	return s, nil
}

// newRun names a run: those that began before come first.
func newRun(now time.Time) string {
	b := make([]byte, 8)
	rand.Read(b) // never fails (crypto/rand)
	return fmt.Sprintf("%016x%s", now.UnixNano(), hex.EncodeToString(b))
}

// Parse reads the URL of a database; what it doesn't say is from the environment,
// as with psql (PGPASSWORD, PGSSLROOTCERT and so on).
func Parse(u secret.String) (*pgconn.Config, error) {
	c, err := pgconn.ParseConfig(u.Reveal())
	if err != nil {
		return nil, err // pgconn keeps the password out of it
	}
	c.ConnectTimeout = connectTime
	c.RuntimeParams["application_name"] = "sidegate"
	return c, nil
}

// Name is a database without its credentials.
func Name(u secret.String) string {
	p, err := url.Parse(u.Reveal())
	if err != nil {
		return "postgres"
	}
	return "postgres " + p.Host + p.Path
}

// connect is a connection to a database whose tables are as they must be.
func (s *Store) connect(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	conn, err := pgconn.ConnectConfig(ctx, s.config)
	if err != nil {
		return short(err)
	}
	s.conn = conn
	if err := s.tables(ctx); err != nil {
		s.hangUp()
		return short(err)
	}
	return nil
}

// short is an error of the database in one line.
func short(err error) error {
	var c *pgconn.ConnectError
	if errors.As(err, &c) {
		err = c.Unwrap()
	}
	text := err.Error()
	if !strings.Contains(text, "\n") {
		return err
	}
	var lines []string // of each address, with TLS and without
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return errors.New(strings.Join(lines, "; "))
}

func (s *Store) hangUp() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.conn.Close(ctx) // it is given up
	s.conn = nil
}

// tables makes them, unless they are there. Nodes that start together take turns.
func (s *Store) tables(ctx context.Context) error {
	there, err := s.ask(ctx, `SELECT (to_regclass('sidegate_usage_schema') IS NOT NULL)::int::bigint`)
	if err == nil && there == 0 && s.spool != nil {
		err = s.within(ctx, func() error {
			if _, err := s.ask(ctx, `SELECT 1::bigint FROM pg_advisory_xact_lock($1::bigint)`, number(lockSchema)); err != nil {
				return err
			}
			there, err := s.ask(ctx, `SELECT (to_regclass('sidegate_usage_schema') IS NOT NULL)::int::bigint`)
			if err != nil || there == 1 {
				return err
			}
			return s.conn.Exec(ctx, create).Close()
		})
	}
	if err != nil {
		return err
	}
	if there == 0 && s.spool == nil {
		return errors.New("no gateway has stored anything there")
	}
	version, err := s.ask(ctx, `SELECT max(version)::bigint FROM sidegate_usage_schema`)
	if err == nil && version > schema {
		err = fmt.Errorf("schema %d, and this version knows %d: %w", version, schema, usage.ErrNewer)
	}
	return err
}

// within runs f in a transaction. A connection on which something failed isn't
// used again: nobody knows what it is at.
func (s *Store) within(ctx context.Context, f func() error) error {
	err := s.conn.Exec(ctx, "BEGIN").Close()
	if err == nil {
		err = f()
	}
	if err == nil {
		err = s.conn.Exec(ctx, "COMMIT").Close()
	}
	return err
}

// each runs a statement with its values and results in binary.
func (s *Store) each(ctx context.Context, sql string, args [][]byte, f func(values [][]byte) error) (pgconn.CommandTag, error) {
	formats := []int16{1}
	r := s.conn.ExecParams(ctx, sql, args, nil, formats, formats)
	for r.NextRow() {
		if err := f(r.Values()); err != nil {
			return pgconn.CommandTag{}, errors.Join(err, s.stop(r))
		}
	}
	return r.Close()
}

// stop ends a statement whose further rows nobody wants.
func (s *Store) stop(r *pgconn.ResultReader) error {
	s.hangUp()
	_, _ = r.Close() // it can only say that the connection is gone
	return nil
}

func nothing([][]byte) error { return nil }

// ask runs a statement that answers with one number.
func (s *Store) ask(ctx context.Context, sql string, args ...[]byte) (n int64, err error) {
	_, err = s.each(ctx, sql, args, func(values [][]byte) error {
		if len(values) != 1 || len(values[0]) != 8 {
			return errColumns
		}
		for _, b := range values[0] {
			n = n<<8 | int64(b)
		}
		return nil
	})
	return n, err
}

// Add puts rows on the disk, and then what is there into the database.
func (s *Store) Add(ctx context.Context, rows []usage.Row) error {
	if len(rows) == 0 {
		s.deliver(ctx)
		return nil
	}
	err := s.spool.add(rows)
	s.deliver(ctx)
	if err != nil && s.err == nil { // there may be room now
		if err = s.spool.add(rows); err == nil {
			s.deliver(ctx)
		}
	}
	return err
}

// deliver gives the database what it hasn't got, in order, as far as it goes.
func (s *Store) deliver(ctx context.Context) {
	now := s.Now()
	if err := s.spool.inherit(s.Log); err != nil && s.own == nil {
		s.Log.WithError(err).Error("batches of usage that another process has left can't be taken over: it is tried again")
	}
	if len(s.spool.list) == 0 || s.err != nil && now.Before(s.retry) && s.retry.Sub(now) <= retryMost {
		return
	}
	for len(s.spool.list) > 0 {
		if err := s.deliverFirst(ctx); err != nil {
			s.hangUp()
			s.err = short(err)
			s.pause = min(max(2*s.pause, retryFirst), retryMost)
			s.retry = now.Add(s.pause)
			return
		}
	}
	s.err, s.pause = nil, 0
}

func (s *Store) deliverFirst(ctx context.Context) error {
	i := s.spool.list[0]
	if err := s.connect(ctx); err != nil {
		return err
	}
	s.spool.fix(i)
	rows, err := s.spool.read(i)
	if errors.Is(err, errDamaged) {
		s.Log.WithField("file", i.file()).Error("a batch of usage on the disk is damaged, and left out: it is set aside as .bad")
		return s.spool.setAside()
	}
	if err != nil {
		return err
	}
	err = s.within(ctx, func() error {
		tag, err := s.each(ctx, claim, [][]byte{[]byte(i.run), []byte(clean(s.node)), number(i.seq)}, nothing)
		if err != nil || tag.RowsAffected() == 0 { // it is there, and the answer was lost
			return err
		}
		return s.insert(ctx, usage.Minute, true, tidy(rows))
	})
	var refused *pgconn.PgError
	if errors.As(err, &refused) && strings.HasPrefix(refused.Code, "22") { // data exception: it would be refused forever
		s.Log.WithError(err).WithField("file", i.file()).Error("the database refuses a batch of usage: it is set aside as .bad")
		s.hangUp()
		return s.spool.setAside()
	}
	if err != nil {
		return err
	}
	return s.spool.done()
}

// tidy leaves out what the database can't hold, and joins the rows that are the
// same then: one statement can't add to a row twice.
func tidy(rows []usage.Row) []usage.Row {
	for i := range rows {
		k := &rows[i].Key
		k.Consumer, k.Route, k.Service = clean(k.Consumer), clean(k.Route), clean(k.Service)
	}
	return usage.Fold(rows, usage.Minute)
}

// insert adds rows to those of a span, none of them twice.
func (s *Store) insert(ctx context.Context, span usage.Span, open bool, rows []usage.Row) error {
	const together = 5000
	for len(rows) > 0 {
		n := min(len(rows), together)
		args := append(arrays(rows[:n]), small(int64(span)), boolean(open))
		if _, err := s.each(ctx, insert, args, nothing); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// Read calls f with the rows of a filter: those that wait, and the database's.
func (s *Store) Read(ctx context.Context, q *usage.Filter, f func(*usage.Row) error) error {
	if s.spool != nil {
		s.deliver(ctx)
		for _, i := range s.spool.list {
			rows, err := s.spool.read(i)
			if err != nil {
				return err
			}
			for j := range rows {
				if rows[j].Start = q.Step.Floor(rows[j].Start); q.Takes(&rows[j]) {
					if err := f(&rows[j]); err != nil {
						return err
					}
				}
			}
		}
	}
	if err := s.connect(ctx); err != nil {
		return err
	}
	var r usage.Row
	for span := range q.Step + 1 {
		sql, args := selection(span, q)
		_, err := s.each(ctx, sql, args, func(values [][]byte) error {
			if err := scan(&r, values); err != nil {
				return err
			}
			return f(&r)
		})
		if err != nil {
			s.hangUp()
			return err
		}
	}
	return nil
}

// selection asks for the rows of a span that a filter wants.
func selection(span usage.Span, q *usage.Filter) (sql string, args [][]byte) {
	sql = "SELECT " + columns + " FROM sidegate_usage WHERE span = $1::smallint AND start >= $2::bigint AND start < $3::bigint"
	args = [][]byte{small(int64(span)), number(q.Since), number(q.Until)}
	if span != q.Step {
		sql += " AND open"
	}
	oneOf := func(column, kind string, element uint32, n int, value func(int) []byte) {
		if n > 0 {
			args = append(args, array(element, n, value))
			sql += fmt.Sprintf(" AND %s = ANY ($%d::%s[])", column, len(args), kind)
		}
	}
	text := func(column string, list []string) {
		oneOf(column, "text", typeText, len(list), func(i int) []byte { return []byte(clean(list[i])) })
	}
	text("consumer", q.Consumers)
	text("route", q.Routes)
	text("service", q.Services)
	oneOf("class", "smallint", typeInt2, len(q.Classes), func(i int) []byte { return small(int64(q.Classes[i])) })
	return sql, args
}

// Status says which database it is, and what waits for it.
func (s *Store) Status() usage.StoreStatus {
	st := usage.StoreStatus{Name: Name(s.URL)}
	if s.spool != nil {
		st.Spooled = len(s.spool.list)
	}
	if s.err != nil {
		st.Error = s.err.Error()
	}
	return st
}

// Close leaves what waits on the disk.
func (s *Store) Close() error {
	s.hangUp()
	if s.spool == nil {
		return nil
	}
	err := s.spool.close()
	if s.own != nil {
		err = errors.Join(err, s.own.Close())
	}
	return err
}
