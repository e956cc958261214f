package cache

import (
	"io"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// patience is how long an answer is still read and stored when nobody waits for it
// any more.
const patience = 5 * time.Second

// fill is the body of an answer on its way: one reads it from the service, many
// read what has come. What has come never changes.
type fill struct {
	source exchange.Body
	most   int64
	sized  bool   // how long it is was known before it came
	entry  *entry // what became of it, set before done is closed; nil: it wasn't complete

	mu      sync.Mutex // guards what follows
	more    sync.Cond  // some has come, or the end
	b       []byte
	err     error // how it ended; io.EOF: complete
	ended   bool
	readers int           // that wait for it, but the owner
	over    bool          // it is larger than what is stored; the rest is still to be read
	done    chan struct{} // closed when nobody reads from source for us any more
}

// newFill begins with what has come already.
func newFill(source exchange.Body, length, most int64, b []byte) *fill {
	f := &fill{source: source, most: most, done: make(chan struct{})}
	f.more.L = &f.mu
	size := int64(len(b)) + 4096
	if length >= 0 {
		size = length
	}
	f.b = append(make([]byte, 0, size), b...)
	return f
}

// run reads the body to its end and tells what became of it: all of it, or nil.
// It runs in a goroutine of its own, which Close of the fetching exchange's body
// awaits.
func (f *fill) run(end func(all []byte)) {
	defer close(f.done)
	all := f.pump()
	end(all)
}

func (f *fill) pump() []byte {
	var room [16 << 10]byte
	for {
		n, err := f.source.Read(room[:])
		f.mu.Lock()
		f.b = append(f.b, room[:n]...)
		if err == nil && int64(len(f.b)) > f.most {
			f.over = true
		}
		if err != nil {
			f.err, f.ended = err, true
		}
		over, all := f.over, f.b
		f.more.Broadcast()
		f.mu.Unlock()
		switch {
		case over:
			return nil
		case err == io.EOF && int64(len(all)) <= f.most:
			return all
		case err != nil:
			return nil
		}
	}
}

// reader reads an answer on its way, from its beginning.
type reader struct {
	f      *fill
	owner  bool // its exchange holds the connection to the service
	at     int
	closed bool // guarded by f.mu
}

var _ exchange.Body = (*reader)(nil)

// Read waits for bytes.
func (r *reader) Read(p []byte) (int, error) {
	f := r.f
	f.mu.Lock()
	for r.at == len(f.b) && !f.ended && !f.over && !r.closed {
		f.more.Wait()
	}
	n := copy(p, f.b[r.at:])
	r.at += n
	rest, over, err, closed := len(f.b)-r.at, f.over, f.err, r.closed
	f.mu.Unlock()
	switch {
	case closed:
		return 0, io.ErrClosedPipe
	case n > 0 && (rest > 0 || err == nil):
		return n, nil
	case n > 0:
		return n, eof(err)
	case over && r.owner: // the rest is read by this one alone
		<-f.done
		return f.source.Read(p)
	case over:
		return 0, io.ErrUnexpectedEOF
	default:
		return 0, err
	}
}

// eof leaves an error for the next Read, but for the end.
func eof(err error) error {
	if err == io.EOF {
		return io.EOF
	}
	return nil
}

// Next returns what has come.
func (r *reader) Next() ([]byte, bool) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	b := f.b[r.at:len(f.b):len(f.b)]
	r.at = len(f.b)
	return b, f.ended && f.err == io.EOF
}

// Close gives the body up. That of the exchange which fetches it waits until it has
// been stored, for patience at most.
func (r *reader) Close() error {
	f := r.f
	f.mu.Lock()
	was := r.closed
	r.closed = true
	if !r.owner && !was {
		f.readers--
	}
	f.more.Broadcast()
	f.mu.Unlock()
	if !r.owner || was {
		return nil
	}
	f.await()
	return f.source.Close()
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
		alone := f.readers == 0
		f.mu.Unlock()
		if alone {
			_ = f.source.Close() // its Read ends
			<-f.done
			return
		}
	}
}

// reader is one more that reads the answer from its beginning.
func (f *fill) reader() *reader {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	return &reader{f: f}
}
