package limits

import "github.com/sidegate-proxy/sidegate/proxy/exchange"

// bounded is a body of unknown length that may have so many bytes and no more.
// What goes on before it has too many is a message that breaks off, in a way
// that the service can tell.
type bounded struct {
	exchange.Body
	left  int64
	fault *exchange.Fault
	over  bool
}

// Read reads as long as the body isn't too large.
func (b *bounded) Read(p []byte) (int, error) {
	if b.over {
		return 0, b.fault
	}
	n, err := b.Body.Read(p)
	if b.pass(n) {
		return n, err
	}
	return 0, b.fault
}

// Next returns what is in memory. Of a body that is too large it returns
// nothing more, and Read says why.
func (b *bounded) Next() ([]byte, bool) {
	if b.over {
		return nil, false
	}
	bytes, done := b.Body.Next()
	if b.pass(len(bytes)) {
		return bytes, done
	}
	return nil, false
}

func (b *bounded) pass(n int) bool {
	b.left -= int64(n)
	b.over = b.left < 0
	return !b.over
}
