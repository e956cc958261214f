package cache

import (
	"io"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// reader reads an answer on its way, from its beginning.
type reader struct {
	f     *fill
	x     *exchange.Exchange
	owner bool // its exchange holds the connection to the service
	at    int64

	// Guarded by f.mu.
	closed, cut, waits bool
	blame              time.Duration // that the others have waited for it
	fromFile           *fileChunks
}

// fileChunks is what a reader that is behind reads with.
type fileChunks struct {
	f    file
	room []byte
}

var _ exchange.Body = (*reader)(nil)

// Read waits for bytes.
func (r *reader) Read(p []byte) (int, error) {
	f := r.f
	f.mu.Lock()
	for r.at == f.size && !f.ended && !f.direct && !r.closed && !r.cut {
		r.waits = true
		f.beat()
		f.more.Wait()
		r.waits = false
	}
	switch {
	case r.closed:
		f.mu.Unlock()
		return 0, io.ErrClosedPipe
	case r.cut:
		f.mu.Unlock()
		return 0, exchange.NewFault(exchange.FromClient, exchange.ClientGone, "it stood still for longer than others who want the same wait for it")
	case r.at < f.base:
		return r.late(p)
	case r.at == f.size && f.ended:
		f.mu.Unlock()
		return 0, f.err
	case r.at == f.size: // the rest is read by its owner alone
		f.mu.Unlock()
		<-f.done
		return f.source.Read(p)
	}
	c := f.chunks[(r.at-f.base)/chunkSize][(r.at-f.base)%chunkSize:]
	n := min(len(p), len(c))
	r.move(n)
	end := r.at == f.size && f.ended && f.err == io.EOF
	f.mu.Unlock()
	copy(p, c) // what has come never changes
	if end {
		return n, io.EOF
	}
	return n, nil
}

// late reads from the file what isn't in memory any more.
func (r *reader) late(p []byte) (int, error) {
	f := r.f
	if r.fromFile == nil {
		r.fromFile = &fileChunks{room: make([]byte, chunkSize+sumSize), f: file{d: &f.store.disk, f: f.spool.f, id: f.spool.id, length: f.base}}
	}
	f.mu.Unlock()
	c := r.fromFile
	n := r.at / chunkSize
	c.f.length = (n + 1) * chunkSize // it was let go of when all of it was there
	b, err := c.f.chunk(n, c.room)
	if err != nil {
		return 0, unreadable(err)
	}
	m := copy(p, b[r.at-n*chunkSize:])
	f.mu.Lock()
	r.move(m)
	end := r.at == f.size && f.ended && f.err == io.EOF
	f.mu.Unlock()
	if end {
		return m, io.EOF
	}
	return m, nil
}

// Next returns what has come, as far as it is in one piece.
func (r *reader) Next() ([]byte, bool) {
	f := r.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.at < f.base || r.cut {
		return nil, false
	}
	var b []byte
	if i := (r.at - f.base) / chunkSize; i < int64(len(f.chunks)) {
		c := f.chunks[i]
		b = c[(r.at-f.base)%chunkSize : len(c) : len(c)]
	}
	r.move(len(b))
	return b, r.at == f.size && f.ended && f.err == io.EOF
}

// Close gives the body up. That of the exchange which fetches it waits until it has
// been stored, for patience at most.
func (r *reader) Close() error {
	f := r.f
	f.mu.Lock()
	was := r.closed
	r.closed = true
	r.leave()
	f.more.Broadcast()
	f.mu.Unlock()
	if !r.owner || was {
		return nil
	}
	f.await()
	return f.source.Close()
}

// move says that it has read n bytes.
func (r *reader) move(n int) {
	was, now := r.at/chunkSize, (r.at+int64(n))/chunkSize
	r.at += int64(n)
	if _, ok := r.f.readers[r]; ok && was != now {
		r.f.at[now]++
		r.f.past(was)
	}
}

// leave takes it from the readers.
func (r *reader) leave() {
	if _, ok := r.f.readers[r]; ok {
		delete(r.f.readers, r)
		r.f.past(r.at / chunkSize)
		if len(r.f.readers) < 2 {
			r.f.less.Signal() // the owner may be alone now
		}
	}
	r.f.letGo()
}
