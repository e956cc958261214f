package exchange

import (
	"io"
	"strings"
	"testing"
)

// rest is a body that isn't in memory.
type rest struct{ io.Reader }

func (rest) Next() ([]byte, bool) { return nil, false }
func (rest) Close() error         { return nil }

func TestUnread(t *testing.T) {
	for _, whole := range []bool{true, false} {
		make := func() (*Exchange, string) {
			x, want := &Exchange{RequestBody: rest{strings.NewReader("def")}}, "abcdef"
			if whole {
				want = "abc"
			}
			x.Unread([]byte("abc"), whole)
			return x, want
		}
		x, want := make()
		if b, ok := x.Taken(); ok != whole || ok && string(b) != "abc" {
			t.Errorf("whole %v: Taken = %q, %v", whole, b, ok)
		}
		if got, err := io.ReadAll(x.RequestBody); err != nil || string(got) != want {
			t.Errorf("whole %v: Read gives %q, %v, want %q", whole, got, err, want)
		}
		if _, ok := x.Taken(); ok {
			t.Errorf("whole %v: it is taken, and read", whole)
		}
		x, want = make()
		b, done := x.RequestBody.Next()
		if string(b) != "abc" || done != whole {
			t.Errorf("whole %v: Next = %q, %v", whole, b, done)
		}
		if got, err := io.ReadAll(x.RequestBody); err != nil || string(b)+string(got) != want {
			t.Errorf("whole %v: behind Next %q, %v", whole, got, err)
		}
		x, want = make()
		x.Unread([]byte("0"), false)
		if got, err := io.ReadAll(x.RequestBody); err != nil || string(got) != "0"+want {
			t.Errorf("whole %v: twice unread: %q, %v", whole, got, err)
		}
	}
}
