package exchange

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

// pieces is a body that comes in pieces, and ends with err (nil: io.EOF, with
// the last one).
type pieces struct {
	list []string
	err  error
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.list) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		return 0, io.EOF
	}
	n := copy(b, p.list[0])
	if p.list[0] = p.list[0][n:]; p.list[0] == "" {
		p.list = p.list[1:]
	}
	if len(p.list) == 0 && p.err == nil {
		return n, io.EOF
	}
	return n, nil
}

func (p *pieces) Next() ([]byte, bool) { return nil, len(p.list) == 0 && p.err == nil }
func (p *pieces) Close() error         { return nil }

func TestTakeBody(t *testing.T) {
	long := string(bytes.Repeat([]byte("0123456789abcdef"), 4096)) // 64 KiB
	for _, tt := range []struct {
		name   string
		list   []string
		length int64
		most   int64
		took   int
		whole  bool
	}{
		{"empty", nil, -1, 10, 0, true},
		{"short", []string{"ab", "cd"}, -1, 10, 4, true},
		{"as long as may be", []string{"ab", "cd"}, 4, 4, 4, true},
		{"a byte more", []string{"ab", "cde"}, -1, 4, 4, false},
		{"long and allowed", []string{long}, int64(len(long)), 1 << 20, len(long), true},
		{"long, not known", []string{long, long}, -1, 1 << 20, 2 * len(long), true},
		{"longer than allowed", []string{long, "more"}, -1, 1 << 10, 1 << 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := ""
			for _, s := range tt.list {
				want += s
			}
			x := &Exchange{RequestBody: &pieces{list: append([]string(nil), tt.list...)}, RequestLength: tt.length}
			b, whole, err := x.TakeBody(tt.most)
			if err != nil || len(b) != tt.took || whole != tt.whole || string(b) != want[:len(b)] {
				t.Errorf("TakeBody = %d bytes, %v, %v, want %d, %v", len(b), whole, err, tt.took, tt.whole)
			}
			if whole {
				again, _, err := x.TakeBody(tt.most)
				if err != nil || len(b) > 0 && &again[0] != &b[0] {
					t.Errorf("a second TakeBody read again, or %v", err)
				}
			}
			got, err := io.ReadAll(x.RequestBody)
			if err != nil || string(got) != want {
				t.Errorf("the body is %d bytes then, %v; want the %d that came", len(got), err, len(want))
			}
		})
	}
}

func TestTakeBodyNext(t *testing.T) {
	x := &Exchange{RequestBody: &pieces{list: []string{"ab", "cd"}}, RequestLength: -1}
	if _, _, err := x.TakeBody(10); err != nil {
		t.Fatal(err)
	}
	if b, done := x.RequestBody.Next(); string(b) != "abcd" || !done {
		t.Errorf("Next = %q, %v, want all of it at once", b, done)
	}
}

func TestTakeBodyBroken(t *testing.T) {
	x := &Exchange{RequestBody: &pieces{list: []string{"ab"}, err: io.ErrUnexpectedEOF}, RequestLength: -1}
	var f *Fault
	if _, _, err := x.TakeBody(10); !errors.As(err, &f) || f.Kind != ClientGone {
		t.Errorf("TakeBody = %v, want a fault of the client", err)
	}
	x = &Exchange{RequestBody: &pieces{list: []string{"ab"}, err: NewFault(FromClient, ClientTimeout, "slow")}, RequestLength: -1}
	if _, _, err := x.TakeBody(10); !errors.As(err, &f) || f.Kind != ClientTimeout {
		t.Errorf("TakeBody = %v, want the fault that the front says", err)
	}
}

func TestTakeBodyNone(t *testing.T) {
	x := &Exchange{}
	if b, whole, err := x.TakeBody(10); b != nil || !whole || err != nil || x.RequestBody != nil {
		t.Errorf("TakeBody without a body = %q, %v, %v", b, whole, err)
	}
}
