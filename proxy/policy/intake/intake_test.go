package intake

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
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

func TestTake(t *testing.T) {
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
			x := &exchange.Exchange{RequestBody: &pieces{list: append([]string(nil), tt.list...)}, RequestLength: tt.length}
			b, whole, _, err := NewRoom().Take(x, tt.most)
			if err != nil || len(b) != tt.took || whole != tt.whole || string(b) != want[:len(b)] {
				t.Errorf("Take = %d bytes, %v, %v, want %d, %v", len(b), whole, err, tt.took, tt.whole)
			}
			if whole {
				again, _, _, err := NewRoom().Take(x, tt.most)
				if err != nil || len(b) > 0 && &again[0] != &b[0] {
					t.Errorf("a second Take read again, or %v", err)
				}
			}
			got, err := io.ReadAll(x.RequestBody)
			if err != nil || string(got) != want {
				t.Errorf("the body is %d bytes then, %v; want the %d that came", len(got), err, len(want))
			}
		})
	}
}

func TestTakeNext(t *testing.T) {
	x := &exchange.Exchange{RequestBody: &pieces{list: []string{"ab", "cd"}}, RequestLength: -1}
	if _, _, _, err := NewRoom().Take(x, 10); err != nil {
		t.Fatal(err)
	}
	if b, done := x.RequestBody.Next(); string(b) != "abcd" || !done {
		t.Errorf("Next = %q, %v, want all of it at once", b, done)
	}
}

func TestTakeBroken(t *testing.T) {
	x := &exchange.Exchange{RequestBody: &pieces{list: []string{"ab"}, err: io.ErrUnexpectedEOF}, RequestLength: -1}
	var f *exchange.Fault
	if _, _, _, err := NewRoom().Take(x, 10); !errors.As(err, &f) || f.Kind != exchange.ClientGone {
		t.Errorf("Take = %v, want a fault of the client", err)
	}
	x = &exchange.Exchange{RequestBody: &pieces{list: []string{"ab"}, err: exchange.NewFault(exchange.FromClient, exchange.ClientTimeout, "slow")}, RequestLength: -1}
	if _, _, _, err := NewRoom().Take(x, 10); !errors.As(err, &f) || f.Kind != exchange.ClientTimeout {
		t.Errorf("Take = %v, want the fault that the front says", err)
	}
}

func TestTakeNone(t *testing.T) {
	x := &exchange.Exchange{}
	if b, whole, _, err := NewRoom().Take(x, 10); b != nil || !whole || err != nil || x.RequestBody != nil {
		t.Errorf("Take without a body = %q, %v, %v", b, whole, err)
	}
}

// dribble is a body that comes a byte at a time, with the clock going on.
type dribble struct {
	left int
	now  *time.Time
	step time.Duration
}

func (d *dribble) Read(b []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), d.left, 1000)
	d.left -= n
	*d.now = d.now.Add(d.step)
	return n, nil
}

func (d *dribble) Next() ([]byte, bool) { return nil, false }
func (d *dribble) Close() error         { return nil }

func TestPace(t *testing.T) {
	for _, tt := range []struct {
		size int
		step time.Duration
		ok   bool
	}{
		{100_000, 100 * time.Millisecond, true}, // 10 kB/s
		{100_000, 300 * time.Millisecond, false},
		{8_000, time.Minute, true}, // it keeps next to nothing
	} {
		now := time.Now()
		r := NewRoom()
		r.now = func() time.Time { return now }
		x := &exchange.Exchange{RequestBody: &dribble{tt.size, &now, tt.step}, RequestLength: -1}
		b, whole, p, err := r.Take(x, 1<<20)
		var f *exchange.Fault
		if (err == nil) != tt.ok || tt.ok && (len(b) != tt.size || !whole) || !tt.ok && (!errors.As(err, &f) || f.Kind != exchange.ClientTimeout) {
			t.Errorf("%d bytes, %v for each 1000: %d, %v, %v", tt.size, tt.step, len(b), whole, err)
		}
		p.Leave()
		if r.Held() != 0 || len(r.clients) != 0 {
			t.Errorf("%d bytes are held afterwards", r.Held())
		}
	}
}

func TestRoom(t *testing.T) {
	r := NewRoom()
	body := strings.Repeat("x", 1<<20)
	take := func(client string) (Place, *exchange.Exchange, error) {
		x := &exchange.Exchange{RequestBody: &pieces{list: []string{body}}, RequestLength: 1 << 20, ClientIP: netip.MustParseAddr(client)}
		_, _, p, err := r.Take(x, 1<<20)
		return p, x, err
	}
	var places []Place
	fill := func(client string) error {
		for range 100 {
			p, x, err := take(client)
			if err != nil {
				if got, _ := io.ReadAll(x.RequestBody); string(got) != body {
					t.Errorf("of a body that found no room %d bytes go on", len(got))
				}
				return err
			}
			places = append(places, p)
		}
		return nil
	}
	var f *exchange.Fault
	if err := fill("2001:db8::1"); !errors.As(err, &f) || f.Kind != exchange.RateLimited || len(places) != 8 {
		t.Errorf("one address has %d MiB, then %v", len(places), err)
	}
	if _, _, err := take("2001:db8::2"); !errors.As(err, &f) || f.Kind != exchange.RateLimited {
		t.Errorf("its neighbour in the /64: %v", err)
	}
	for i := range 9 {
		if err := fill(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String()); !errors.As(err, &f) {
			t.Errorf("%v", err)
		}
	}
	if f.Kind != exchange.Overloaded || len(places) < 60 || r.Held() > all {
		t.Errorf("all have %d MiB, %d bytes, then %v", len(places), r.Held(), f)
	}
	x := &exchange.Exchange{RequestBody: &pieces{list: []string{"small"}}, RequestLength: 5, ClientIP: netip.MustParseAddr("192.0.2.1")}
	if b, whole, _, err := r.Take(x, 1<<20); err != nil || string(b) != "small" || !whole {
		t.Errorf("a small body finds no room: %v", err)
	}
	for i := range places {
		places[i].Leave()
		places[i].Leave()
	}
	if r.Held() != 0 || len(r.clients) != 0 {
		t.Errorf("%d bytes are held afterwards, for %d", r.Held(), len(r.clients))
	}
}

// TestLargeBody: a body that is larger than an address's portion comes in, alone.
func TestLargeBody(t *testing.T) {
	r := NewRoom()
	take := func(size int) (Place, error) {
		x := &exchange.Exchange{RequestBody: &pieces{list: []string{strings.Repeat("x", size)}}, RequestLength: int64(size), ClientIP: netip.MustParseAddr("192.0.2.1")}
		b, whole, p, err := r.Take(x, all/2)
		if err == nil && (!whole || len(b) != size) {
			t.Errorf("%d bytes of %d, %v", len(b), size, whole)
		}
		return p, err
	}
	large, err := take(20 << 20)
	if err != nil {
		t.Fatal(err)
	}
	var f *exchange.Fault
	if _, err := take(1 << 20); !errors.As(err, &f) || f.Kind != exchange.RateLimited {
		t.Errorf("one beside it: %v", err)
	}
	large.Leave()
	small, err := take(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := take(20 << 20); !errors.As(err, &f) || f.Kind != exchange.RateLimited {
		t.Errorf("a large one beside a small one: %v", err)
	}
	small.Leave()
	if r.Held() != 0 || len(r.clients) != 0 {
		t.Errorf("%d bytes are held afterwards", r.Held())
	}
}
