package cache

import (
	"io"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// patience is how long an answer is still read and stored when nobody waits for it
	// any more.
	patience = 5 * time.Second
	// slowest is how long, in all, the others wait for who is a long way behind most of
	// them, and stuck how long for one who stands still, whoever else does.
	slowest = 10 * time.Second
	stuck   = 30 * time.Second
	// manySlow is how long, in all, it is waited for many.
	manySlow = time.Minute
	// mostBehind is how many bytes of an answer that isn't kept in memory wait for the
	// slowest reader.
	mostBehind = 1 << 20
	// goneEvery is how often it is looked whether those who wait are still there.
	goneEvery = time.Second
)

// fill is the body of an answer on its way: one goroutine reads it from the
// service, many read what has come. What has come never changes.
//
//	in memory   all of it is kept; this is what is stored
//	spooled     it goes into a file as it comes; who is slow reads there
//	passing     it isn't stored, but those who joined get all of it: what waits for
//	            them is bounded, and who stays behind for long is broken off. If there
//	            is only the one whose request it is, that reads the rest by itself.
type fill struct {
	source exchange.Body
	store  *Store
	flight *flight
	length int64  // -1: not known
	most   int64  // bytes that are stored, anywhere
	inMem  int64  // bytes that are stored in memory
	sized  bool   // how long it is was known before it came
	entry  *entry // what became of it, set before done is closed; nil: it isn't stored

	mu      sync.Mutex // guards what follows
	more    sync.Cond  // some has come, or the end
	less    sync.Cond  // there is room for more
	chunks  [][]byte   // from base on, each full but the last
	base    int64
	size    int64 // that has come
	held    int64 // bytes of memory that were reserved
	short   bool  // there was none to be reserved
	err     error // how it ended; io.EOF: complete
	ended   bool
	passing bool
	direct  bool // its owner reads the rest
	over    bool // nothing more is done with it but reading
	spool   *spool
	closed  bool // of which we have let go
	readers map[*reader]struct{}
	at      map[int64]int // how many of them read in each chunk
	waited  time.Duration // for those who are behind
	pulse   *time.Timer   // looks after those who wait
	done    chan struct{} // closed when nobody reads from source for us any more
}

// newFill begins with what has come already.
func (k *keeping) newFill(source exchange.Body, e *entry, b []byte) *fill {
	s := k.store
	f := &fill{
		source: source, store: s, flight: k.flight, length: e.length, most: k.most, inMem: min(k.most, s.largest()), readers: map[*reader]struct{}{}, at: map[int64]int{}, done: make(chan struct{}),
	}
	f.more.L, f.less.L = &f.mu, &f.mu
	if s.disk.takes() {
		f.inMem = min(f.inMem, max(small, s.most.Load()/256))
		if e.length > f.inMem {
			e.id = s.last.Add(1)
			f.spool = s.newSpool(f.flight.uri, e.id)
			f.spool.holds.Add(1)
		}
	}
	for len(b) > 0 {
		c := f.room()
		n := copy(c[len(c):space(c)], b)
		f.came(n)
		b = b[n:]
	}
	f.decide()
	return f
}

// run reads the body to its end and tells what became of it: nothing, or all of it, in
// chunks or in a file. It runs in a goroutine of its own, which Close of the fetching
// exchange's body awaits.
func (f *fill) run(end func(chunks [][]byte, size int64, p *spool), nothing func()) {
	complete := f.pump()
	if !complete {
		nothing()
		f.store.end(f.flight)
	} else {
		end(f.chunks, f.size, f.spool)
	}
	f.mu.Lock()
	f.store.releaseFlying(f.held)
	f.held, f.over = 0, true
	f.letGo()
	f.mu.Unlock()
	close(f.done)
}

// pump reads; it reports whether all has come and is to be stored.
func (f *fill) pump() bool {
	for {
		f.mu.Lock()
		c := f.room()
		f.mu.Unlock()
		n, err := f.source.Read(c[len(c):space(c)])
		f.mu.Lock()
		f.came(n)
		if err != nil {
			f.err, f.ended = err, true
		}
		f.decide()
		f.trim()
		f.more.Broadcast()
		ended, direct, writes := f.ended, f.direct, f.spool != nil && !f.passing
		f.mu.Unlock()
		if ended || direct {
			return f.finish(err)
		}
		if writes {
			f.store.disk.catchUp()
		}
	}
}

// finish is the end of the pump.
func (f *fill) finish(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	good := err == io.EOF && !f.passing
	if f.spool == nil {
		return good
	}
	if n := len(f.chunks); good && n > 0 && len(f.chunks[n-1]) < chunkSize { // the full ones are written
		f.spool.write(f.size/chunkSize, f.chunks[n-1])
	}
	if !good {
		f.spool.abandon()
	}
	return good
}

// space is how much of a chunk is for the body; behind that is its checksum.
func space(c []byte) int { return cap(c) - sumSize }

// room is the chunk that what comes goes to.
func (f *fill) room() []byte {
	n := len(f.chunks)
	if n > 0 && len(f.chunks[n-1]) < space(f.chunks[n-1]) {
		return f.chunks[n-1]
	}
	size := int64(chunkSize)
	if n == 0 && f.length >= 0 && f.length < chunkSize {
		size = f.length + 1 // to read its end
	}
	if f.store.reserveFlying(size) {
		f.held += size
	} else if f.short = true; f.spool == nil && !f.passing {
		f.pass()
	}
	c := make([]byte, 0, size+sumSize)[: 0 : size+sumSize]
	if n > 0 && space(f.chunks[n-1]) < chunkSize { // it is longer than it said
		c = append(c, f.chunks[n-1]...)
		f.chunks[n-1] = c
		return c
	}
	f.chunks = append(f.chunks, c)
	return c
}

// came says that n bytes have been read into the last chunk.
func (f *fill) came(n int) {
	last := len(f.chunks) - 1
	c := f.chunks[last]
	c = c[:len(c)+n]
	f.chunks[last] = c
	f.size += int64(n)
	if len(c) == chunkSize && f.spool != nil && !f.passing {
		f.spool.write(f.size/chunkSize-1, c)
	}
}

// decide says what is to become of it, by what has come.
func (f *fill) decide() {
	switch {
	case f.passing:
	case f.size > f.most || f.spool != nil && f.spool.failed.Load():
		f.pass()
	case f.size > f.inMem && f.spool == nil:
		if !f.store.disk.takes() {
			f.pass()
			return
		}
		f.spool = f.store.newSpool(f.flight.uri, f.store.last.Add(1))
		f.spool.holds.Add(1)
		for i, c := range f.chunks {
			if len(c) == chunkSize {
				f.spool.write(int64(i), c)
			}
		}
	}
}

// pass has it pass, unstored.
func (f *fill) pass() {
	f.passing = true
	if f.spool != nil {
		f.spool.failed.Store(true)
	}
	f.store.seal(f.flight)
}

// trim lets go of what is in the file, or what all have read, and waits for those who
// are behind.
func (f *fill) trim() {
	if f.spool != nil && !f.passing {
		for int64(len(f.chunks)) > f.behind()/2/chunkSize && f.spool.written.Load() >= f.base+chunkSize {
			f.shift()
		}
		return
	}
	if !f.passing {
		return
	}
	if f.alone() {
		f.direct = true
		return
	}
	f.shiftRead()
	if f.size-f.base <= f.behind() || f.ended {
		return
	}
	var t *time.Timer
	waited, from, waits := time.Duration(0), f.base, true
	t = time.AfterFunc(goneEvery, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if !waits {
			return
		}
		f.waited += goneEvery
		if waited += goneEvery; f.base != from {
			waited, from = 0, f.base
		}
		f.cutOff(waited >= stuck)
		t.Reset(goneEvery)
	})
	for f.size-f.base > f.behind() && !f.direct {
		f.more.Broadcast() // they are to read what is there
		f.less.Wait()
		f.shiftRead()
		f.direct = f.alone()
	}
	waits = false
	t.Stop()
}

// behind is how many bytes wait for who is slow.
func (f *fill) behind() int64 {
	if f.short {
		return 2 * chunkSize
	}
	return mostBehind
}

// shiftRead lets go of what all have read.
func (f *fill) shiftRead() {
	for len(f.chunks) > 1 && f.at[f.base/chunkSize] == 0 {
		f.shift()
	}
}

// shift lets go of the first chunk.
func (f *fill) shift() {
	f.chunks[0] = nil
	f.chunks = f.chunks[1:]
	f.base += chunkSize
	if f.held >= chunkSize {
		f.held -= chunkSize
		f.store.releaseFlying(chunkSize)
	}
}

// alone reports whether nobody but the owner reads it.
func (f *fill) alone() bool {
	for r := range f.readers {
		if !r.owner {
			return false
		}
	}
	return true
}

// cutOff breaks off those for whom the others have waited long enough. If many are
// behind that is nobody's fault, for a while.
func (f *fill) cutOff(hard bool) {
	half, ahead := f.base+f.behind()/2, 0
	for r := range f.readers {
		if r.at >= half {
			ahead++
		}
	}
	for r := range f.readers {
		if r.at < half && (10*ahead >= 9*len(f.readers) || f.waited >= manySlow) {
			r.blame += goneEvery
		}
		if r.blame >= slowest || hard && r.at < f.base+chunkSize {
			r.cut = true
			r.leave()
		}
	}
	f.more.Broadcast()
	f.less.Signal()
}

// past says that one reader less is in a chunk.
func (f *fill) past(chunk int64) {
	if f.at[chunk]--; f.at[chunk] == 0 {
		delete(f.at, chunk)
		f.less.Signal()
	}
}

// letGo closes the file once nobody can read from it any more.
func (f *fill) letGo() {
	if f.over && len(f.readers) == 0 && f.spool != nil && !f.closed {
		f.closed = true
		f.spool.release()
	}
}

// beat looks after those who wait, from now on: whose client has gone holds nothing.
func (f *fill) beat() {
	if f.pulse == nil {
		f.pulse = time.AfterFunc(goneEvery, f.lookAround)
	}
}

func (f *fill) lookAround() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pulse = nil
	waits := false
	for r := range f.readers {
		if !r.waits {
			continue
		}
		waits = true
		if !r.owner && r.x != nil && r.x.Front != nil && r.x.Front.Gone(r.x) {
			r.closed = true
			r.leave()
			f.more.Broadcast()
		}
	}
	if waits {
		f.beat()
	}
}

// await waits until nobody reads from source for us any more. As long as somebody
// waits for the answer, it is read on.
func (f *fill) await() {
	t := time.NewTicker(patience)
	defer t.Stop()
	for {
		select {
		case <-f.done:
			return
		case <-t.C:
		}
		f.mu.Lock()
		alone := f.alone()
		f.mu.Unlock()
		if alone {
			_ = f.source.Close() // its Read ends
			<-f.done
			return
		}
	}
}

// reader is one more that reads the answer from its beginning; nil: it isn't all
// there any more.
func (f *fill) reader(x *exchange.Exchange, owner bool) *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.direct || f.closed || f.base > 0 && (f.passing || f.spool == nil) {
		return nil
	}
	r := &reader{f: f, x: x, owner: owner}
	f.readers[r] = struct{}{}
	f.at[0]++
	return r
}
