package h2

import (
	"io"
	"time"

	"golang.org/x/net/http2"
)

// maxFrame is the largest frame payload that we take, and send: the least that
// every peer takes (RFC 9113, 4.2).
const maxFrame = 16 << 10

// engine is what reading frames needs: 18 KiB that a connection without streams
// gives back.
type engine struct {
	fr    *http2.Framer
	fill  func(p []byte) (int, error) // reads from the connection that has the engine
	block block                       // a front's; a client has one for each connection
	r, w  int
	buf   [midBuffer]byte
}

func (p *pools) engine(fill func([]byte) (int, error)) *engine {
	e, ok := p.engines.Get().(*engine)
	if !ok {
		e = &engine{}
		e.fr = http2.NewFramer(nil, e)
		e.fr.SetReuseFrames()
		e.fr.SetMaxReadFrameSize(maxFrame)
	}
	e.fill = fill
	return e
}

// giveBack returns an engine between two field blocks; one that stopped at an
// error is thrown away, because its Framer remembers.
func (p *pools) giveBack(e *engine) {
	e.fill, e.r, e.w = nil, 0, 0
	e.block.blockState, e.block.dec = blockState{}, nil
	p.engines.Put(e)
}

func (e *engine) buffered() int { return e.w - e.r }

// more reads once into the empty buffer.
func (e *engine) more() error {
	n, err := e.fill(e.buf[:])
	e.r, e.w = 0, n
	e.block.now = time.Time{}
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// Read feeds the Framer.
func (e *engine) Read(p []byte) (int, error) {
	if e.r == e.w {
		if len(p) >= len(e.buf) {
			return e.fill(p)
		}
		if err := e.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, e.buf[e.r:e.w])
	e.r += n
	return n, nil
}
