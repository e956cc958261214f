// Package memory refuses new work before the process is killed for the memory
// that it takes. It compares what is used with the limits that hold: those of
// the process's control groups, the one of the configuration, and what the
// machine has.
//
//	scarce  from 85 % on, until 80 %   requests of low priority are refused
//	full    from 95 % on, until 90 %   all new requests and connections are
//
// What has been let in goes on. The collector is told of the limit, too: it
// works harder from 75 % on, so that what is above is in use, not garbage.
//
// It starts no goroutine: whoever calls Look owns it. Asking for the level is one
// atomic load.
package memory

import (
	"math"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// Level is how bad it is.
type Level int32

// The levels.
const (
	Enough Level = iota
	Scarce
	Full
)

func (l Level) String() string { return [...]string{"enough", "scarce", "full"}[l] }

// The marks, in hundredths of a limit.
const (
	collect    = 75
	scarceFrom = 85
	scarceTo   = 80
	fullFrom   = 95
	fullTo     = 90
)

// findEvery is how often the limits themselves are looked for: an operator may
// change that of a unit while it runs.
const findEvery = 10 * time.Second

// pauses are how long to wait for the next look, by how much is used: what a
// flood brings until then has to find room.
var pauses = [...]struct {
	below int // hundredths
	pause time.Duration
}{
	{50, 100 * time.Millisecond},
	{75, 25 * time.Millisecond},
	{math.MaxInt, 10 * time.Millisecond},
}

// Deps are what a Guard works with.
type Deps struct {
	Log  logrus.FieldLogger
	Root string // of the file system; "": "/"
	// Collect is told from what on the collector is to work harder; nil: nobody.
	Collect func(bytes int64)
	Now     func() time.Time // nil: time.Now
	// Used is what the process uses by itself; nil: as Go's runtime says.
	Used func() int64
}

// Guard watches the memory. A nil one finds that there is enough.
type Guard struct {
	Deps
	level   atomic.Int32
	refused [2]atomic.Uint64 // requests while scarce, and while full
	turned  atomic.Uint64    // connections turned away

	mu         sync.Mutex // guards what follows
	configured int64
	gauges     []gauge
	found      time.Time // when the gauges were
	worst      reading
	toldOf     int64  // the limit that Collect was told of
	before     uint64 // refusals before this episode
}

// reading is what was used of a limit.
type reading struct {
	used, limit int64
	of          string // whose limit it is
}

// NewGuard returns a guard; limit is the configuration's, 0 for none.
func NewGuard(d Deps, limit int64) *Guard {
	if d.Root == "" {
		d.Root = "/"
	}
	if d.Used == nil {
		d.Used = used
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	g := &Guard{Deps: d}
	g.SetLimit(limit)
	return g
}

// SetLimit changes the limit of the configuration, 0 for none.
func (g *Guard) SetLimit(bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.configured, g.found = bytes, time.Time{}
}

// Level is how bad it is.
func (g *Guard) Level() Level {
	if g == nil {
		return Enough
	}
	return Level(g.level.Load())
}

// Refuse counts a request that is refused at a level.
func (g *Guard) Refuse(l Level) { g.refused[l-1].Add(1) }

// TurnsAway reports whether new connections are refused, and counts the one that
// is asked for.
func (g *Guard) TurnsAway() bool {
	if g.Level() < Full {
		return false
	}
	g.turned.Add(1)
	return true
}

// Look reads what is used, and says in the log when the level changes. It returns
// how long it can wait for the next look.
func (g *Guard) Look() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if at := g.Now(); g.found.IsZero() || at.Sub(g.found) >= findEvery {
		if list, ok := g.find(); ok || g.gauges == nil { // else what was found before holds
			g.found, g.gauges = at, list
			g.tell()
		}
	}
	was, now := Level(g.level.Load()), Enough
	g.worst = reading{}
	for i := range g.gauges {
		r, ok := g.gauges[i].read()
		if !ok {
			continue
		}
		now = max(now, judge(was, r))
		if g.worst.limit == 0 || r.share() > g.worst.share() {
			g.worst = r
		}
	}
	g.level.Store(int32(now))
	if was != now {
		g.say(was, now)
	}
	i := 0
	for g.worst.limit > 0 && int(100*g.worst.share()) >= pauses[i].below {
		i++
	}
	return pauses[i].pause
}

func (r reading) share() float64 { return float64(r.used) / float64(r.limit) }

// judge is the level by one limit. Leaving a level takes less than reaching it,
// so that it doesn't come and go.
func judge(was Level, r reading) Level {
	percent := int(100 * r.share())
	switch {
	case percent >= fullFrom, was == Full && percent >= fullTo:
		return Full
	case percent >= scarceFrom, was >= Scarce && percent >= scarceTo:
		return Scarce
	default:
		return Enough
	}
}

// tell lets the collector know of the lowest limit.
func (g *Guard) tell() {
	var lowest int64
	for i := range g.gauges {
		if l := g.gauges[i].limit; lowest == 0 || l < lowest {
			lowest = l
		}
	}
	if lowest != g.toldOf && lowest > 0 && g.Collect != nil {
		g.Collect(lowest / 100 * collect)
	}
	g.toldOf = lowest
}

// say tells of a change: once for each episode and level in it, and of its end.
func (g *Guard) say(was, now Level) {
	refused := g.refused[0].Load() + g.refused[1].Load()
	if was == Enough {
		g.before = refused
	}
	log := g.Log.WithFields(logrus.Fields{"used": g.worst.used, "limit": g.worst.limit, "limit_of": g.worst.of})
	switch {
	case now == Full:
		log.Error("memory is nearly used up: new requests and connections are refused")
	case now == Scarce && was == Enough:
		log.Warn("memory is scarce: requests of low priority are refused")
	case now == Enough:
		log.WithField("refused", refused-g.before).Info("there is enough memory again")
	}
}

// Status is what is known of the memory.
type Status struct {
	Level   string `json:"level"`
	Used    int64  `json:"used"`
	Limit   int64  `json:"limit"`
	LimitOf string `json:"limit_of"`
	// Requests refused while memory was scarce, and while it was full.
	RefusedScarce uint64 `json:"refused_scarce"`
	RefusedFull   uint64 `json:"refused_full"`
	// Connections turned away.
	TurnedAway uint64 `json:"turned_away"`
}

// Status returns it.
func (g *Guard) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	return Status{
		Level: g.Level().String(), Used: g.worst.used, Limit: g.worst.limit, LimitOf: g.worst.of,
		RefusedScarce: g.refused[0].Load(), RefusedFull: g.refused[1].Load(), TurnedAway: g.turned.Load(),
	}
}

// used is what the runtime has of the system and hasn't given back.
func used() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64() - sample[1].Value.Uint64())
}
