package h2

import (
	"sync"
	"unsafe"
)

// view is b as a string without a copy.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// The size classes of buffers.
const (
	smallBuffer = 4 << 10
	midBuffer   = 16 << 10
	largeBuffer = 64 << 10
)

// pools lends buffers and engines to the connections of one front or client.
// Its zero value is ready.
type pools struct {
	small, mid, large sync.Pool // *[smallBuffer]byte and so on
	engines           sync.Pool // *engine
}

// get returns an empty buffer with room for n bytes.
func (p *pools) get(n int) []byte {
	switch {
	case n <= smallBuffer:
		if b, ok := p.small.Get().(*[smallBuffer]byte); ok {
			return b[:0]
		}
		return new([smallBuffer]byte)[:0]
	case n <= midBuffer:
		if b, ok := p.mid.Get().(*[midBuffer]byte); ok {
			return b[:0]
		}
		return new([midBuffer]byte)[:0]
	case n <= largeBuffer:
		if b, ok := p.large.Get().(*[largeBuffer]byte); ok {
			return b[:0]
		}
		return new([largeBuffer]byte)[:0]
	default:
		return make([]byte, 0, n)
	}
}

// put takes back a buffer that get or grow made; others are left to the
// garbage collector.
func (p *pools) put(b []byte) {
	switch cap(b) {
	case smallBuffer:
		p.small.Put((*[smallBuffer]byte)(b[:smallBuffer]))
	case midBuffer:
		p.mid.Put((*[midBuffer]byte)(b[:midBuffer]))
	case largeBuffer:
		p.large.Put((*[largeBuffer]byte)(b[:largeBuffer]))
	}
}

// grow returns b with room for n more bytes.
func (p *pools) grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	need := len(b) + n
	if need > largeBuffer {
		need += need / 4
	}
	bigger := append(p.get(need), b...)
	p.put(b)
	return bigger
}
