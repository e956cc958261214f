// Package sqlite keeps usage in a file. It speaks to SQLite directly, without
// database/sql: one connection, one thing at a time. The engine is the C one,
// translated to Go by way of WebAssembly: a damaged file can make it fail, but
// never write outside its own memory, which is the gateway's, too.
//
//	usage(span, open, start, consumer, route, service, class, counts…, latency)
//
// A row with open = 1 isn't in the next span yet: what was used by a day is its
// row of span 2, and the open rows of hours and of minutes within it.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"
	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

const (
	schema = 1 // user_version
	// application says whose file it is: "sgus".
	application = 0x73677573
	busy        = 5 * time.Second
)

const create = `
CREATE TABLE usage (
  span INTEGER NOT NULL,     -- 0: minute, 1: hour, 2: day
  open INTEGER NOT NULL,     -- 1: not in the next span yet
  start INTEGER NOT NULL,    -- seconds since 1970
  consumer TEXT NOT NULL, route TEXT NOT NULL, service TEXT NOT NULL,
  class INTEGER NOT NULL,    -- of status
  requests INTEGER NOT NULL, bytes_in INTEGER NOT NULL, bytes_out INTEGER NOT NULL, errors INTEGER NOT NULL,
  limited INTEGER NOT NULL, hits INTEGER NOT NULL,
  charged INTEGER NOT NULL,  -- millionths of units
  latency BLOB NOT NULL,     -- a histogram
  PRIMARY KEY (span, open, start, consumer, route, service, class)
) WITHOUT ROWID`

const (
	columns = `start, consumer, route, service, class, requests, bytes_in, bytes_out, errors, limited, hits, charged, latency`
	add     = `INSERT INTO usage (span, open, ` + columns + `) VALUES (?,?, ?,?,?,?,?, ?,?,?,?,?,?,?, ?)
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, bytes_in = bytes_in + excluded.bytes_in, bytes_out = bytes_out + excluded.bytes_out,
errors = errors + excluded.errors, limited = limited + excluded.limited, hits = hits + excluded.hits, charged = charged + excluded.charged,
latency = merged(latency, excluded.latency)`
)

// Store is a file. It isn't safe for concurrent use.
type Store struct {
	path string
	conn *sqlite3.Conn
}

var _ usage.Store = (*Store)(nil)

// Open opens a file, and makes it if it isn't there.
func Open(ctx context.Context, path string) (*Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // SQLite would let others read it
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return open(ctx, path, sqlite3.OPEN_READWRITE, (*Store).prepare)
}

// View opens a file that no gateway uses, and leaves it and its folder as they
// are: whoever runs it may not be the gateway's user.
func View(ctx context.Context, path string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	// Without a journal that is to be read, nothing needs to be written either.
	if info, err := os.Stat(path + "-wal"); err != nil || info.Size() == 0 {
		return open(ctx, "file:"+escape(path)+"?immutable=1", sqlite3.OPEN_READONLY|sqlite3.OPEN_URI, (*Store).check)
	}
	return open(ctx, path, sqlite3.OPEN_READWRITE, func(s *Store) error {
		if err := s.conn.Exec("PRAGMA locking_mode = exclusive"); err != nil { // no file of shared memory
			return err
		}
		return s.check()
	})
}

// escape writes a path for a URI.
func escape(path string) string {
	return strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
}

func open(ctx context.Context, path string, flags sqlite3.OpenFlag, prepare func(*Store) error) (s *Store, err error) {
	defer guard(&err)
	conn, err := sqlite3.OpenFlags(path, flags)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, explain(path, err))
	}
	s = &Store{path: path, conn: conn}
	conn.SetInterrupt(ctx)
	if err := prepare(s); err != nil {
		_ = s.Close() // there is nothing in it
		return nil, fmt.Errorf("%s: %w", path, explain(path, err))
	}
	return s, nil
}

// explain says what is most likely behind an I/O error: the file of shared memory
// has no room on a full disk.
func explain(path string, err error) error {
	var fs unix.Statfs_t
	if errors.Is(err, sqlite3.IOERR) && unix.Statfs(filepath.Dir(path), &fs) == nil && int64(fs.Bavail)*fs.Bsize < 64<<10 {
		return fmt.Errorf("%w: the disk is full", err)
	}
	return err
}

// guard makes an error of a panic: the engine's, over a damaged file.
func guard(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("sqlite: %v", p)
	}
}

// prepare makes or checks the schema. Each commit reaches the disk before it is
// done.
func (s *Store) prepare() error {
	if err := s.check(); err != nil {
		return err
	}
	if err := s.conn.Exec("PRAGMA journal_mode = wal; PRAGMA synchronous = full"); err != nil {
		return err
	}
	if err := s.conn.CreateFunction("merged", 2, sqlite3.DETERMINISTIC, merged); err != nil {
		return err
	}
	version, err := s.number("PRAGMA user_version")
	if err != nil || version != 0 {
		return err
	}
	return s.within(func() error {
		return s.conn.Exec(fmt.Sprintf("%s; PRAGMA application_id = %d; PRAGMA user_version = %d", create, application, schema))
	})
}

// check makes sure that it is a file that this version knows, or an empty one.
func (s *Store) check() error {
	if err := s.conn.BusyTimeout(busy); err != nil {
		return err
	}
	version, err := s.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	whose, err := s.number("PRAGMA application_id")
	switch {
	case err != nil:
		return err
	case version == 0 && whose == 0:
		tables, err := s.number("SELECT count(*) FROM sqlite_schema")
		if err == nil && tables > 0 {
			err = errors.New("it is another program's database")
		}
		return err
	case whose != application:
		return errors.New("it is another program's database")
	case version > schema:
		return fmt.Errorf("schema %d, and this version knows %d: %w", version, schema, usage.ErrNewer)
	}
	return nil
}

func (s *Store) number(sql string, args ...any) (n int64, err error) {
	err = s.each(sql, args, func(st *sqlite3.Stmt) error {
		n = st.ColumnInt64(0)
		return nil
	})
	return n, err
}

// merged is the SQL function that adds two histograms.
func merged(ctx sqlite3.Context, arg ...sqlite3.Value) {
	var h usage.Histogram
	if err := errors.Join(h.Decode(arg[0].RawBlob()), h.Decode(arg[1].RawBlob())); err != nil {
		ctx.ResultError(err)
		return
	}
	ctx.ResultBlob(h.Append(nil))
}

// within runs f in a transaction.
func (s *Store) within(f func() error) (err error) {
	if err := s.conn.Exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err = f(); err == nil {
		err = s.conn.Exec("COMMIT")
	}
	if err != nil && !s.conn.GetAutocommit() {
		s.conn.SetInterrupt(context.Background()) // which may be why it failed
		err = errors.Join(err, s.conn.Exec("ROLLBACK"))
	}
	return err
}

// each calls f for each row of a statement.
func (s *Store) each(sql string, args []any, f func(*sqlite3.Stmt) error) error {
	st, _, err := s.conn.Prepare(sql)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // its error is the last Step's
	if err := bind(st, args); err != nil {
		return err
	}
	for st.Step() {
		if f == nil {
			continue
		}
		if err := f(st); err != nil {
			return err
		}
	}
	return st.Err()
}

func bind(st *sqlite3.Stmt, args []any) error {
	for i, a := range args {
		var err error
		switch v := a.(type) {
		case int64:
			err = st.BindInt64(i+1, v)
		case string:
			err = st.BindText(i+1, v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Add adds rows of minutes.
func (s *Store) Add(ctx context.Context, rows []usage.Row) (err error) {
	defer guard(&err)
	s.conn.SetInterrupt(ctx)
	return explain(s.path, s.within(func() error { return s.insert(usage.Minute, true, rows) }))
}

// insert adds rows to those of a span.
func (s *Store) insert(span usage.Span, open bool, rows []usage.Row) error {
	st, _, err := s.conn.Prepare(add)
	if err != nil {
		return err
	}
	defer func() { _ = st.Close() }() // its error is the last Step's
	var latency []byte
	for i := range rows {
		r := &rows[i]
		latency = r.Latency.Append(latency[:0])
		err := errors.Join(
			st.BindInt64(1, int64(span)), st.BindBool(2, open), st.BindInt64(3, r.Start),
			st.BindText(4, r.Consumer), st.BindText(5, r.Route), st.BindText(6, r.Service), st.BindInt64(7, int64(r.Class)),
			st.BindInt64(8, r.Requests), st.BindInt64(9, r.BytesIn), st.BindInt64(10, r.BytesOut), st.BindInt64(11, r.Errors),
			st.BindInt64(12, r.Limited), st.BindInt64(13, r.Hits), st.BindInt64(14, r.Charged), st.BindBlob(15, latency))
		if err == nil {
			err = st.Exec()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Read calls f with the rows of a filter.
func (s *Store) Read(ctx context.Context, q *usage.Filter, f func(*usage.Row) error) (err error) {
	defer guard(&err)
	s.conn.SetInterrupt(ctx)
	if version, err := s.number("PRAGMA user_version"); err != nil || version == 0 {
		return err // nothing was ever written
	}
	for span := range q.Step + 1 {
		for open := range int64(2) {
			if open == 0 && span < q.Step {
				continue // it is in the next span
			}
			if err := s.read(span, open, q, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// read calls f with the rows of a filter that are of a span, open or not. Those of
// some consumers are looked up, start by start: there may be a million others.
func (s *Store) read(span usage.Span, open int64, q *usage.Filter, f func(*usage.Row) error) error {
	first, err := s.number("SELECT coalesce(min(start), -1) FROM usage WHERE span = ? AND open = ?", int64(span), open)
	if err != nil || first < 0 {
		return err
	}
	last, err := s.number("SELECT max(start) FROM usage WHERE span = ? AND open = ?", int64(span), open) // apart, each is one look
	since, until := max(q.Since, first), min(q.Until, last+1)
	if err != nil || since >= until {
		return err
	}
	from, where, args := "usage", []string{"span = ?", "open = ?", "start >= ?", "start < ?"}, []any{int64(span), open, since, until}
	if len(q.Consumers) > 0 {
		from = "(WITH RECURSIVE t(s) AS (SELECT ? UNION ALL SELECT s + ? FROM t WHERE s + ? < ?) SELECT s FROM t) CROSS JOIN usage"
		where, args = []string{"span = ?", "open = ?", "start = s"}, []any{span.Floor(since), span.Seconds(), span.Seconds(), until, int64(span), open}
	}
	where, args = oneOf(where, args, "consumer", q.Consumers)
	where, args = oneOf(where, args, "route", q.Routes)
	where, args = oneOf(where, args, "service", q.Services)
	var classes []int64
	for _, c := range q.Classes {
		classes = append(classes, int64(c))
	}
	where, args = oneOf(where, args, "class", classes)
	return s.rows(from, strings.Join(where, " AND "), args, f)
}

func oneOf[T any](where []string, args []any, column string, list []T) ([]string, []any) {
	if len(list) == 0 {
		return where, args
	}
	for _, v := range list {
		args = append(args, v)
	}
	return append(where, column+" IN (?"+strings.Repeat(",?", len(list)-1)+")"), args
}

// rows calls f with rows, one histogram for all.
func (s *Store) rows(from, where string, args []any, f func(*usage.Row) error) error {
	var r usage.Row
	return s.each("SELECT "+columns+" FROM "+from+" WHERE "+where, args, func(st *sqlite3.Stmt) error {
		h := r.Latency
		h.Reset()
		r = usage.Row{
			Start: st.ColumnInt64(0),
			Key:   usage.Key{Consumer: st.ColumnText(1), Route: st.ColumnText(2), Service: st.ColumnText(3), Class: uint8(st.ColumnInt64(4))},
			Counts: usage.Counts{
				Requests: st.ColumnInt64(5), BytesIn: st.ColumnInt64(6), BytesOut: st.ColumnInt64(7), Errors: st.ColumnInt64(8),
				Limited: st.ColumnInt64(9), Hits: st.ColumnInt64(10), Charged: st.ColumnInt64(11), Latency: h,
			},
		}
		if err := r.Latency.Decode(st.ColumnRawBlob(12)); err != nil {
			return fmt.Errorf("the file is damaged: %w", err)
		}
		return f(&r)
	})
}

// Status says which file it is.
func (s *Store) Status() usage.StoreStatus { return usage.StoreStatus{Name: s.path} }

// Close closes the file.
func (s *Store) Close() (err error) {
	defer guard(&err)
	s.conn.SetInterrupt(context.Background())
	return s.conn.Close()
}
