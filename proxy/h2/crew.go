package h2

import (
	"sync"
)

const (
	maxParked  = 1024    // workers that wait for work
	maxWorkers = 1 << 17 // workers in all; streams beyond them are refused
	trimSweeps = 16      // sweeps between two looks at how many workers are too many
)

// job is what a worker does: serve a stream, or flush a connection's output.
type job struct {
	st *stream
	c  *conn
}

// crew is the workers of a front. A worker serves one stream at a time and
// parks in between, so that its stack, grown once, is used again.
type crew struct {
	mu     sync.Mutex
	parked []chan job // the last one to park is the first to work
	fewest int        // parked workers, since the last trim
	sweeps int
	all    int
	closed bool
	done   sync.WaitGroup
}

// start has a worker do j; it reports false when there are too many.
func (w *crew) start(j job) bool {
	w.mu.Lock()
	if n := len(w.parked); n > 0 {
		jobs := w.parked[n-1]
		w.parked = w.parked[:n-1]
		w.fewest = min(w.fewest, n-1)
		w.mu.Unlock()
		jobs <- j
		return true
	}
	if w.all >= maxWorkers && j.st != nil {
		w.mu.Unlock()
		return false
	}
	w.all++
	w.done.Add(1)
	w.mu.Unlock()
	go w.work(j)
	return true
}

func (w *crew) work(j job) {
	defer w.done.Done()
	var jobs chan job
	for {
		if j.st != nil {
			j.st.serve()
		} else {
			j.c.mu.Lock()
			j.c.flush()
		}
		if jobs == nil {
			jobs = make(chan job, 1) // start never waits
		}
		if !w.park(jobs) {
			return
		}
		var ok bool
		if j, ok = <-jobs; !ok {
			return
		}
	}
}

func (w *crew) park(jobs chan job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.parked) >= maxParked {
		w.all--
		return false
	}
	w.parked = append(w.parked, jobs)
	return true
}

// trim ends half of the workers that had nothing to do since the last trim.
func (w *crew) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sweeps++; w.sweeps < trimSweeps {
		return
	}
	w.end((w.fewest + 1) / 2)
	w.sweeps, w.fewest = 0, len(w.parked)
}

// end ends the n workers that parked first.
func (w *crew) end(n int) {
	for i, jobs := range w.parked[:n] {
		close(jobs)
		w.parked[i] = nil
	}
	w.all -= n
	m := copy(w.parked, w.parked[n:])
	clear(w.parked[m:])
	w.parked = w.parked[:m]
}

// close ends the parked workers now, and the others when they have finished,
// which it waits for.
func (w *crew) close() {
	w.mu.Lock()
	w.closed = true
	w.end(len(w.parked))
	w.mu.Unlock()
	w.done.Wait()
}
