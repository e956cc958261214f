package h3

import "sync"

// maxParked bounds the workers that wait for work, and so what their stacks
// keep. Those beyond it end when they have served.
const maxParked = 256

// crew is the workers of a front. A worker serves one stream at a time and
// parks in between, so that its stack, grown once, is used again: growing it
// for each request was an eighth of its cost.
type crew struct {
	mu     sync.Mutex     // guards what follows
	parked []chan *stream // the last one to park is the first to work
	closed bool

	done sync.WaitGroup
}

func (w *crew) start(st *stream) {
	w.mu.Lock()
	if n := len(w.parked); n > 0 {
		jobs := w.parked[n-1]
		w.parked = w.parked[:n-1]
		w.mu.Unlock()
		jobs <- st
		return
	}
	w.done.Add(1)
	w.mu.Unlock()
	go w.work(st) // ends when it can't park, or with close
}

func (w *crew) work(st *stream) {
	defer w.done.Done()
	jobs := make(chan *stream, 1) // start never waits
	for ok := true; ok; {
		st.serve()
		st = nil
		if !w.park(jobs) {
			return
		}
		st, ok = <-jobs
	}
}

func (w *crew) park(jobs chan *stream) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.parked) >= maxParked {
		return false
	}
	w.parked = append(w.parked, jobs)
	return true
}

// close ends the parked workers now, and the others when they have served.
func (w *crew) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for _, jobs := range w.parked {
		close(jobs)
	}
	w.parked = nil
}
