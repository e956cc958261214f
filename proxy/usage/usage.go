// Package usage counts who uses what: requests, bytes, errors, latencies and
// charged units, for each consumer, route, service, class of status and minute.
// What it counts is kept in a Store (sqlite, postgres) and added up there from
// minutes to hours to days. It isn't the metrics, which know no consumers, nor
// the quotas, which decide.
//
//	exchange ends ─ Counter ──── Keeper ───── Store ── minute → hour → day
//	                per core     each flush   once     Fold, a worker
//
// A Counter is asked on the path of every request. Keeper.Run is the one
// goroutine: it takes what was counted since, stamps it with the minute, and
// gives it to the store. While the store is away, rows wait in bounded memory.
package usage

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/secret"
)

// Config is the usage block.
type Config struct {
	// Where usage is kept: empty: usage.db in state_dir (SQLite); postgres://USER:PASSWORD@HOST/NAME for a fleet, whose nodes all add to one database.
	Database secret.String `hcl:"database,attr"`
	// How often what was counted is written: what a crash can lose.
	Flush time.Duration `hcl:"flush,attr" default:"10s" min:"1s" max:"60s"`
	// How long days are kept.
	Retain time.Duration `hcl:"retain,attr" default:"400d" min:"1d"`
	// How long hours are kept.
	RetainHours time.Duration `hcl:"retain_hours,attr" default:"60d" min:"1h"`
	// How long minutes are kept.
	RetainMinutes time.Duration `hcl:"retain_minutes,attr" default:"48h" min:"1h"`
	// Combinations of consumer, route, service and class of status that are counted apart at a time: 1 to 10 kB of memory each on two cores, and more on more, by how many requests it has and how far its latencies spread. Further ones are counted for the consumer "(other)", so that sums stay right. A change takes a restart.
	Series int `hcl:"series,attr" default:"100000" min:"100" max:"10000000"`
	// With PostgreSQL: how much may wait on the disk, in state_dir, while the database is away. Beyond that it waits in memory.
	Spool int64 `hcl:"spool,attr" default:"256MiB" min:"1MiB" unit:"bytes"`
}

// Other is the consumer whom those are counted for that there is no room for.
const Other = "(other)"

// Key says whose counts they are. Consumer is empty for who isn't known.
type Key struct {
	Consumer, Route, Service string
	Class                    uint8 // of status: 2 for 2xx; 0: no response
}

// Compare orders keys.
func (k *Key) Compare(o *Key) int {
	return cmp.Or(strings.Compare(k.Consumer, o.Consumer), strings.Compare(k.Route, o.Route), strings.Compare(k.Service, o.Service), cmp.Compare(k.Class, o.Class))
}

// Counts is what was counted. Errors are answers with 5xx, and exchanges that
// failed for a backend's or the gateway's fault; Limited are requests refused
// with 429 by a policy; Hits were answered from the cache. Charged is in
// millionths of units.
type Counts struct {
	Requests, BytesIn, BytesOut, Errors, Limited, Hits, Charged int64
	Latency                                                     Histogram
}

// Add adds o.
func (c *Counts) Add(o *Counts) {
	c.Requests += o.Requests
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	c.Errors += o.Errors
	c.Limited += o.Limited
	c.Hits += o.Hits
	c.Charged += o.Charged
	c.Latency.Merge(&o.Latency)
}

// Span is how long a row's time is.
type Span uint8

// The spans.
const (
	Minute Span = iota
	Hour
	Day
)

// Seconds is how long it is.
func (s Span) Seconds() int64 {
	switch s {
	case Minute:
		return 60
	case Hour:
		return 3600
	default:
		return 86400
	}
}

// String is the span as queries and answers name it.
func (s Span) String() string {
	switch s {
	case Minute:
		return "minute"
	case Hour:
		return "hour"
	default:
		return "day"
	}
}

// Floor is the start of the span that t is in, in seconds since 1970, UTC. A
// day of the clock before 1970 is 1970's first.
func (s Span) Floor(t int64) int64 { return max(0, t-t%s.Seconds()) }

// Row is what was counted for a key in a span.
type Row struct {
	Start int64 // seconds since 1970
	Key
	Counts
}

// Retention is how long rows of each span are kept.
type Retention [Day + 1]time.Duration

// Retention is what the block says.
func (c *Config) Retention() Retention {
	return Retention{Minute: c.RetainMinutes, Hour: c.RetainHours, Day: c.Retain}
}

// Filter says which rows are wanted; no names: all.
type Filter struct {
	Step         Span  // what rows of shorter spans may be added up to
	Since, Until int64 // starts from Since on, before Until; seconds since 1970
	Consumers    []string
	Routes       []string
	Services     []string
	Classes      []uint8
}

// Takes reports whether the filter wants a row.
func (f *Filter) Takes(r *Row) bool {
	return r.Start >= f.Since && r.Start < f.Until &&
		in(f.Consumers, r.Consumer) && in(f.Routes, r.Route) && in(f.Services, r.Service) && in(f.Classes, r.Class)
}

func in[T comparable](list []T, v T) bool {
	for _, l := range list {
		if l == v {
			return true
		}
	}
	return len(list) == 0
}

// Store keeps rows. It needn't be safe for concurrent use: a Keeper asks one
// thing at a time.
type Store interface {
	// Add adds rows of minutes to what is there, exactly once. An error means
	// that none of them was added, and never will be by this call.
	Add(ctx context.Context, rows []Row) error
	// Read calls f with the rows of a filter, in no order. Rows of one key and
	// start may come in parts. f mustn't keep the row's histogram.
	Read(ctx context.Context, q *Filter, f func(*Row) error) error
	// Fold adds what is over to the next span and forgets what is too old, some
	// of it at a time; more says that there is more to do.
	Fold(ctx context.Context, now time.Time, keep Retention) (more bool, err error)
	// Status says how it is.
	Status() StoreStatus
	Close() error
}

// StoreStatus is how a store is.
type StoreStatus struct {
	Name    string // where, without credentials
	Spooled int    // batches that wait on the disk
	Error   string // why they wait
}

// ErrNewer is a database that a newer version has written.
var ErrNewer = errors.New("a newer version of sidegate wrote it: upgrade this one, or move the database away")
