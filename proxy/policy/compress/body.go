package compress

import (
	"io"
	"sync/atomic"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// piece is how much is encoded before what comes of it goes on.
	piece = 16 << 10
	// keepOut is the largest buffer for encoded bytes that the next response gets.
	keepOut = 256 << 10
)

// body is a response's body, encoded while it is read: nothing is encoded ahead
// of the client but one piece, and no goroutine does it.
//
// A body of unknown length may be one whose parts are worth something as they
// come: what the encoder has is flushed whenever the service's side has nothing
// more at hand and would have to be waited for. With a known length nothing is,
// so that slow services don't cost compression.
type body struct {
	src    exchange.Body
	store  *Store
	counts *counts
	coding coding
	enc    coder // nil: it has been given back, or nothing is to be encoded
	stream bool  // flush before waiting

	rest  []byte // of src's memory, still to be encoded
	last  bool   // src ends with rest
	have  bool   // the encoder holds bytes that it was given
	ended bool   // nothing comes behind out
	err   error

	out     []byte // encoded; out[at:] hasn't been read
	at      int
	in      [piece]byte
	bytesIn uint64
	made    uint64

	holds atomic.Bool // memory of the store is taken; Close may come from elsewhere
}

var _ exchange.Body = (*body)(nil)

// Read returns encoded bytes.
func (b *body) Read(p []byte) (int, error) {
	for {
		if n := copy(p, b.out[b.at:]); n > 0 {
			b.at += n
			if b.at == len(b.out) && b.ended {
				return n, io.EOF
			}
			return n, nil
		}
		switch {
		case b.ended:
			return 0, io.EOF
		case b.err != nil:
			return 0, b.err
		case len(p) == 0:
			return 0, nil
		}
		b.out, b.at = b.out[:0], 0
		b.fill()
	}
}

// Next returns what is encoded already, or comes of what is in memory.
func (b *body) Next() ([]byte, bool) {
	if b.at == len(b.out) && !b.ended && b.err == nil {
		b.out, b.at = b.out[:0], 0
		for len(b.out) == 0 && !b.ended && b.err == nil && b.more() {
			b.encode()
		}
		b.pause()
	}
	out := b.out[b.at:]
	b.at = len(b.out)
	return out, b.ended
}

// more reports whether there is something to encode in memory.
func (b *body) more() bool {
	if len(b.rest) == 0 && !b.last {
		b.rest, b.last = b.src.Next()
	}
	return len(b.rest) > 0 || b.last
}

// pause gives what the encoder holds, since the next piece may be long in coming.
func (b *body) pause() {
	if b.stream && b.have && !b.ended && b.err == nil && !b.more() {
		b.flush()
	}
}

func (b *body) flush() {
	from := len(b.out)
	b.out, b.err = b.enc.flush(b.out)
	b.made += uint64(len(b.out) - from)
	b.have = false
}

// fill encodes the next piece, and waits for it if it has to.
func (b *body) fill() {
	if !b.more() {
		n, err := b.src.Read(b.in[:])
		b.rest, b.last = b.in[:n], err == io.EOF
		if err != nil && err != io.EOF {
			b.err = err // a body that breaks off must not look like one that ends
			return
		}
	}
	b.encode()
	b.pause() // at once: else an encoder's header would go out alone
}

// encode encodes a piece of rest.
func (b *body) encode() {
	from := len(b.out)
	if n := min(len(b.rest), piece); n > 0 {
		b.out, b.err = b.enc.write(b.out, b.rest[:n])
		b.rest, b.have = b.rest[n:], true
		b.bytesIn += uint64(n)
	}
	if b.last && len(b.rest) == 0 && b.err == nil {
		b.out, b.err = b.enc.finish(b.out)
		if b.err == nil {
			b.ended = true
			b.giveBack()
		}
	}
	b.made += uint64(len(b.out) - from)
}

// whole encodes all of a body that is in memory and short, so that its length is
// known before its head goes out.
func (b *body) whole() bool {
	if !b.more() || !b.last || len(b.rest) > 4*piece {
		return false
	}
	for !b.ended && b.err == nil {
		b.encode()
	}
	return b.err == nil
}

// plain makes b give what is in memory as it is.
func (b *body) plain() {
	b.out, b.at, b.ended = append(b.out[:0], b.rest...), 0, true
	b.rest = nil
}

// Close gives the body up. The encoder stays until the exchange's end: someone
// may be reading.
func (b *body) Close() error {
	b.leave()
	return b.src.Close()
}

// leave gives the room back.
func (b *body) leave() {
	if b.holds.CompareAndSwap(true, false) {
		b.store.leave(b.coding)
	}
}

// giveBack gives the encoder to the next response. Only who reads may.
func (b *body) giveBack() {
	if b.enc != nil {
		b.store.coders[b.coding].Put(b.enc)
		b.enc = nil
		b.leave()
	}
}

// recycle ends b, which nobody reads any more.
func (b *body) recycle() {
	if b.made > 0 {
		n := &b.counts.byCoding[b.coding]
		n.responses.Add(1)
		n.in.Add(b.bytesIn)
		n.out.Add(b.made)
	}
	b.giveBack()
	out := b.out[:0]
	if cap(out) > keepOut {
		out = nil
	}
	b.leave()
	store := b.store
	b.src, b.store, b.counts, b.rest, b.err = nil, nil, nil, nil, nil
	b.out, b.at, b.bytesIn, b.made = out, 0, 0, 0
	b.stream, b.last, b.have, b.ended = false, false, false, false
	store.bodies.Put(b)
}
