package app

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	tidyEvery = 5 * time.Second
	tidyWorth = 8 << 20 // bytes that a collection might free
)

// tidyMemory gives memory back after a surge, until ctx ends. Ten thousand
// connections that have gone idle leave deep stacks and free heap behind, which
// the runtime keeps until its next collection; without traffic that is minutes
// away. Under load collections come by themselves, and nothing is done here.
func tidyMemory(ctx context.Context) {
	sample := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/sched/goroutines:goroutines"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	const stack = 4 << 10 // what a goroutine that waits needs
	var cycles, after uint64
	t := time.NewTicker(tidyEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		metrics.Read(sample)
		now := sample[0].Value.Uint64()
		quiet := now == cycles
		cycles = now
		spare := sample[2].Value.Uint64()
		if stacks, needed := sample[1].Value.Uint64(), sample[3].Value.Uint64()*stack; stacks > needed {
			spare += stacks - needed
		}
		if objects, live := sample[4].Value.Uint64(), sample[5].Value.Uint64(); objects > live {
			spare += objects - live // garbage, or new
		}
		// after is what the last tidying couldn't free.
		if !quiet || spare < after+tidyWorth {
			continue
		}
		runtime.GC() // what sync.Pools hold goes with the second collection only
		debug.FreeOSMemory()
		metrics.Read(sample)
		cycles, after = sample[0].Value.Uint64(), sample[2].Value.Uint64()
	}
}
