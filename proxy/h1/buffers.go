package h1

import (
	"sync"
	"unsafe"
)

// The sizes of pooled buffers.
var bufferSizes = [...]int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}

const (
	smallBuffer = 4 << 10
	outBuffer   = 16 << 10
	copyBuffer  = 64 << 10
)

// buffers holds free memory, and nothing else: connections of all fronts and
// pools share it, so it belongs to the package.
var buffers [len(bufferSizes)]sync.Pool

// take returns a buffer of at least n bytes, as long as its capacity.
func take(n int) []byte {
	for i, size := range bufferSizes {
		if n <= size {
			if p, ok := buffers[i].Get().(*byte); ok {
				return unsafe.Slice(p, size)
			}
			return make([]byte, size)
		}
	}
	return make([]byte, n)
}

func takeSmall() []byte { return take(smallBuffer) }

// give returns a buffer from take; one that append has moved elsewhere may
// have any capacity and is left to the collector.
func give(b []byte) {
	for i, size := range bufferSizes {
		if cap(b) == size {
			buffers[i].Put(unsafe.SliceData(b))
			return
		}
	}
}
