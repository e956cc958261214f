package app

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/memory"
)

const (
	tidyEvery   = 5 * time.Second
	tidyWorth   = 8 << 20 // bytes that a collection might free
	stackNeeded = 4 << 10 // by a goroutine that waits
)

// newMemoryGuard returns the guard. An operator who has set GOMEMLIMIT has told
// the collector already.
func newMemoryGuard(log logrus.FieldLogger, limit int64) *memory.Guard {
	d := memory.Deps{Log: log.WithField("component", "memory")}
	if os.Getenv("GOMEMLIMIT") == "" {
		d.Collect = func(bytes int64) { debug.SetMemoryLimit(bytes) }
	}
	return memory.NewGuard(d, limit)
}

// watchMemory has the guard look, and memory given back, until ctx ends.
func (a *App) watchMemory(ctx context.Context) {
	tidy := newTidying()
	pace := newPacing()
	var program pages
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		t.Reset(a.memory.Look())
		pace.look(a.cached.Memory())
		if time.Since(tidy.last) >= tidyEvery {
			tidy.look(a.memory.Level() > memory.Enough)
			program.look()
			tidy.last = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// tidying gives memory back after a surge. Ten thousand connections that have
// gone idle leave deep stacks and free heap behind, which the runtime keeps
// until its next collection; without traffic that is minutes away. Under load
// collections come by themselves, and nothing is done here, unless there isn't
// enough: then what is refused doesn't make the garbage that a collection would
// wait for.
type tidying struct {
	sample        []metrics.Sample
	cycles, after uint64
	last          time.Time
	started       bool // the garbage of the start has gone
}

func newTidying() *tidying {
	return &tidying{last: time.Now(), sample: []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/sched/goroutines:goroutines"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}}
}

func (t *tidying) look(scarce bool) {
	metrics.Read(t.sample)
	value := func(i int) uint64 { return t.sample[i].Value.Uint64() }
	now := value(0)
	quiet := now == t.cycles
	t.cycles = now
	spare := value(2)
	if stacks, needed := value(1), value(3)*stackNeeded; stacks > needed {
		spare += stacks - needed
	}
	if objects, live := value(4), value(5); objects > live {
		spare += objects - live // garbage, or new
	}
	// after is what the last tidying couldn't free.
	if !scarce && t.started && (!quiet || spare < t.after+tidyWorth) {
		return
	}
	t.started = true
	runtime.GC() // what sync.Pools hold goes with the second collection only
	debug.FreeOSMemory()
	metrics.Read(t.sample)
	t.cycles, t.after = value(0), value(2)
}

const (
	paceWorth = 16 << 20 // bytes of answers in memory
	leastRoom = 64 << 20 // garbage that may pile up before a collection
)

// pacing tells the collector how much garbage may pile up. By itself it lets that be as
// much as is in use, which the cache's answers would double. They cost a collection next
// to nothing, since no pointer is in them, and hardly any of them becomes garbage. An
// operator who has set GOGC has decided.
type pacing struct {
	sample  []metrics.Sample
	at      int64 // bytes of answers when it was last told
	percent int
}

func newPacing() *pacing {
	p := &pacing{percent: 100, sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	if os.Getenv("GOGC") != "" {
		p.sample = nil
	}
	return p
}

func (p *pacing) look(cached int64) {
	if p.sample == nil || max(cached-p.at, p.at-cached) < paceWorth+p.at/8 {
		return
	}
	p.at = cached
	metrics.Read(p.sample)
	live := max(int64(p.sample[0].Value.Uint64()), cached) // what came since the last collection isn't in it
	other := max(0, live-cached)
	percent := int(max(1, min(100, (max(leastRoom, other)+cached/32)*100/max(live, 1))))
	if percent != p.percent {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
}
