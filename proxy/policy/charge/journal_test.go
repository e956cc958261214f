package charge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge/chargetest"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestAmount: texts and numbers, and what is neither.
func TestAmount(t *testing.T) {
	for text, want := range map[string]Amount{"0": 0, "1": one, "0.25": 250_000, "0.000001": 1, "1000000000": most, "007": 7 * one} {
		a, err := ParseAmount(text)
		if err != nil || a != want {
			t.Errorf("ParseAmount(%q) = %d, %v; want %d", text, a, err, want)
		}
		var b Amount
		j, err := a.MarshalJSON()
		if err == nil {
			err = b.UnmarshalJSON(j)
		}
		if err != nil || a != b {
			t.Errorf("%s comes back as %d, %v", j, b, err)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "-1", "+1", "1e3", "0.1234567", "1000000000.000001", "99999999999999999999", "1,5", " 1", "0x1", "NaN"} {
		if a, err := ParseAmount(text); err == nil {
			t.Errorf("ParseAmount(%q) = %s", text, a)
		}
	}
	if got := Amount(-1_500_000).String(); got != "-1.5" {
		t.Errorf("String = %s", got)
	}
}

// FuzzRecord: what is written is read again, and nothing else is.
func FuzzRecord(f *testing.F) {
	f.Add("serve", "06H10GC5VWKEK31V4MFG000004", "acme\n\"\u2028", int64(5))
	f.Fuzz(func(t *testing.T, kind, id, consumer string, units int64) {
		r := record{Type: kind, ID: id, Consumer: consumer, Units: units}
		b := appendRecord(nil, &r)
		if n := strings.Count(string(b), "\n"); n != 1 {
			t.Fatalf("%d lines", n)
		}
		if whole, err := json.Marshal(&r); err != nil || !sameJSON(b[sumSize:], whole) {
			t.Fatalf("%s isn't %s", b, whole)
		}
		got, ok := parseRecord(strings.TrimSuffix(string(b), "\n"))
		if !ok || got.Units != units || strings.ToValidUTF8(consumer, "\ufffd") == consumer && got.Consumer != consumer {
			t.Fatalf("%s is read as %+v, %v", b, got, ok)
		}
		b[len(b)/2] ^= 1
		if _, ok := parseRecord(strings.TrimSuffix(string(b), "\n")); ok {
			t.Fatalf("%s is read", b)
		}
	})
}

func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

// TestDamage: a line that was cut off was never waited for, one that is damaged is
// left out and counted, and a file that was being begun isn't read.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	var b []byte
	for i := range 3 {
		b = appendRecord(b, &record{Type: isServe, ID: fmt.Sprint("c", i), Mode: modeEvent, To: "s", Meter: "m", Units: 1_000_000})
	}
	lines := strings.SplitAfter(string(b), "\n")
	lines[1] = strings.Replace(lines[1], `"m"`, `"n"`, 1)
	text := strings.Join(lines, "") + lines[0][:20]
	for name, text := range map[string]string{"0000000007.log": text, "0000000008.log.new": lines[0]} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := NewLedger(Deps{Log: quiet(), Path: dir})
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	if s := l.Status(); s.Spool.Damaged != 1 || s.Pending != 2 {
		t.Errorf("%d are damaged, %d pending; want 1, 2", s.Spool.Damaged, s.Pending)
	}
	l.mu.Lock()
	l.log(&record{Type: isDone, ID: "c0"})
	l.mu.Unlock()
	if err := l.writeOnce(); err != nil {
		t.Fatal(err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*.log")); len(names) != 1 || filepath.Base(names[0]) != "0000000008.log" {
		t.Errorf("files: %q", names)
	}
	if err := l.file.close(); err != nil {
		t.Fatal(err)
	}
	again := NewLedger(Deps{Log: quiet(), Path: dir})
	if err := again.open(); err != nil {
		t.Fatal(err)
	}
	if s := again.Status(); s.Spool.Damaged != 0 || s.Pending != 1 || s.Node != l.node {
		t.Errorf("after that: %+v", s)
	}
	if err := os.WriteFile(filepath.Join(dir, "0000000009.log"), []byte(text), 0); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		if err := NewLedger(Deps{Log: quiet(), Path: dir}).open(); err == nil {
			t.Error("a file that can't be read is passed over")
		}
	}
}

// TestSameAfterCrash: the records make the state that they were made in, whatever
// stands in between.
func TestSameAfterCrash(t *testing.T) {
	dir := t.TempDir()
	l := NewLedger(Deps{Log: quiet(), Path: dir})
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 25, 23, 59, 59, 0, time.UTC).UnixMilli()
	until := time.Now().Add(time.Hour).UnixMilli()
	r := func(kind, id, mode string, units int64) record {
		return record{Type: kind, ID: id, At: at, To: "s", Mode: mode, Meter: "m", Consumer: "acme", Units: units}
	}
	keyed := r(isOpen, "keyed", modeReserve, 1)
	keyed.Key, keyed.Until = "k", until
	spent := r(isServe, "spent", modeLease, 5)
	spent.Lease = "lease"
	unspent := spent
	unspent.Type, unspent.Units = isCancel, 2
	steps := []record{
		r(isOpen, "a", modeReserve, 1), r(isServe, "a", modeReserve, 3), keyed, r(isServe, "keyed", modeReserve, 1), {Type: isDone, ID: "keyed"},
		r(isServe, "event", modeEvent, 7), r(isServe, "broken", modeEvent, 7), {Type: isCancel, ID: "broken", Reason: "why"},
		r(isLease, "lease", modeLease, 100), {Type: isGrant, ID: "lease", Granted: 90, Until: until}, spent, unspent,
		r(isOpen, "dead", modeReserve, 2), r(isServe, "dead", modeReserve, 2), {Type: isDead, ID: "dead", Reason: "no"},
		r(isOpen, "no", modeReserve, 2), {Type: isRefuse, ID: "no"}, r(isOpen, "c", modeReserve, 2), {Type: isCancel, ID: "c", Reason: "because"},
		r(isLease, "over", modeLease, 10), {Type: isGrant, ID: "over", Granted: 10, Until: until}, {Type: isReturn, ID: "over"},
	}
	for i := range steps {
		l.mu.Lock()
		l.log(&steps[i])
		l.mu.Unlock()
		if err := l.writeOnce(); err != nil {
			t.Fatal(err)
		}
		l.mu.Lock()
		l.anew = i%5 == 4 // a new file begins
		l.mu.Unlock()
		again := NewLedger(Deps{Log: quiet(), Path: t.TempDir()})
		if _, err := (&journal{}).open(dir, func(r *record) { again.state.apply(r) }); err != nil {
			t.Fatal(err)
		}
		if got, want := sketch(&again.state), sketch(&l.state); !reflect.DeepEqual(got, want) {
			t.Fatalf("after %+v\n%v\nwant\n%v", steps[i], got, want)
		}
	}
	if got := l.state.totals[totalKey{"2026-11-25", "acme", "m", "s"}]; *got != (total{units: 3 + 1 + 7 + 3 + 2, told: 1, count: 4 + 0}) {
		t.Errorf("the total is %+v", *got)
	}
}

// sketch is what of a state has to outlast a crash.
func sketch(s *state) map[string]string {
	out := map[string]string{}
	for id, e := range s.entries {
		r := e.record
		r.Type, r.Until, r.Key = "", 0, ""
		out[id] = fmt.Sprintf("%+v lease %v owed %d leases %d", r, e.isLease(), e.acct.owed, len(e.acct.leases))
	}
	for k, t := range s.totals {
		out[fmt.Sprint(k)] = fmt.Sprint(*t)
	}
	for k, v := range s.keys {
		if v.id != "" {
			out["key "+k] = v.id
		}
	}
	out["dead"] = fmt.Sprint(s.deads)
	return out
}

// TestSpoolFull: without room, requests do what when_down says, until there is some
// again.
func TestSpoolFull(t *testing.T) {
	r := newRig(t)
	p := r.policy("meter = \"m\"\nmode = \"event\"")
	held := make([]*exchange.Exchange, 8) // they can't be told before they end
	for i := range held {
		held[i] = request(t, "GET https://api.example.com/")
		held[i].Consumer = &exchange.Consumer{Name: strings.Repeat("x", 1000)}
		if _, err := p.Request(held[i]); err != nil {
			t.Fatal(err)
		}
		policytest.Answer(held[i], 200, "")
		if err := p.Response(held[i]); err != nil {
			t.Fatal(err)
		}
	}
	r.l.mu.Lock()
	r.l.Config.Spool = 6000
	r.l.mu.Unlock()
	eventually(t, func() error {
		if x := r.get(p, 200); x.Err == nil || x.Err.Kind != exchange.ChargeUnavailable || !errors.Is(x.Err, errFull) {
			return fmt.Errorf("a request with a full spool: %v", x.Err)
		}
		return nil
	})
	for _, x := range held {
		p.Finish(x)
	}
	eventually(t, func() error {
		if x := r.get(p, 200); x.Err != nil {
			return x.Err
		}
		return nil
	})
}

// TestForgetsFiles: the journal doesn't grow with what is over.
func TestForgetsFiles(t *testing.T) {
	dir := t.TempDir()
	l := NewLedger(Deps{Log: quiet(), Path: dir})
	if err := l.open(); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		for j := range 1000 {
			id := fmt.Sprintf("%d-%d", i, j)
			l.mu.Lock()
			l.log(&record{Type: isServe, ID: id, Mode: modeEvent, To: "s", Meter: "m", Units: 1, Consumer: strings.Repeat("x", 200)})
			l.log(&record{Type: isDone, ID: id})
			l.mu.Unlock()
		}
		if err := l.writeOnce(); err != nil {
			t.Fatal(err)
		}
	}
	if l.file.number < 2 || l.file.size > shrinkAt+1<<20 {
		t.Errorf("file %d has %d bytes", l.file.number, l.file.size)
	}
	if n := len(l.state.recent); n != remembered {
		t.Errorf("%d are remembered", n)
	}
}

// TestManyConsumers: days of many are forgotten, the oldest first, and those of today
// that there is no room for are counted together.
func TestManyConsumers(t *testing.T) {
	s := newState()
	s.most = 10
	day := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	spend := func(days int, consumer string) {
		r := record{At: day.AddDate(0, 0, days).UnixMilli(), Consumer: consumer, Meter: "m", To: "s"}
		s.total(&r, 1, 1)
	}
	for i := range 6 {
		spend(0, fmt.Sprint(i))
		spend(1, fmt.Sprint(i))
	}
	if n := len(s.totals); n != 6 {
		t.Errorf("%d totals with the oldest day gone, want 6", n)
	}
	for i := range 20 {
		spend(1, fmt.Sprint(i))
	}
	sum := int64(0)
	for k, v := range s.totals {
		if sum += v.units; k.day != "2026-11-02" {
			t.Errorf("there is %+v", k)
		}
	}
	if n := len(s.totals); n != 11 || sum != 26 {
		t.Errorf("%d totals of %d units, want 11 of 26", n, sum)
	}
	spend(2, "new")
	if n := len(s.totals); n != 1 {
		t.Errorf("%d totals on the next day", n)
	}
}

// TestIDs: no two are the same, and their order is that of time.
func TestIDs(t *testing.T) {
	l := NewLedger(Deps{Log: quiet()})
	now, last := time.Now(), ""
	for i := range 1000 {
		id := l.ids.next(now.Add(time.Duration(i/10) * time.Millisecond))
		if len(id) != 26 || id <= last {
			t.Fatalf("%s comes after %s", id, last)
		}
		last = id
	}
}

// TestGRPC: a call whose status isn't 0 costs nothing, wherever that stands.
func TestGRPC(t *testing.T) {
	for _, tt := range []struct {
		name, head, trailer string
		want                string
	}{{"good", "", "0", "1"}, {"bad", "", "13", "0"}, {"bad at once", "7", "", "0"}} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			p := r.policy(`meter = "m"`)
			x := request(t, "POST https://api.example.com/")
			r.send(p, x, func() {
				policytest.Answer(x, 200, "message", "Content-Type: application/grpc")
				if tt.head != "" {
					x.Response.Append("Grpc-Status", tt.head)
				}
				if tt.trailer != "" {
					x.ResponseTrailer.Append("Grpc-Status", tt.trailer)
				}
			})
			r.settled(tt.want)
		})
	}
}

// TestTooOld: what can't be told for too long becomes a dead letter; a person who has
// it told again has as much time.
func TestTooOld(t *testing.T) {
	r := newRig(t)
	var up atomic.Bool
	r.billing.Fault = func(*http.Request) chargetest.Fault {
		if up.Load() {
			return chargetest.Fault{}
		}
		return chargetest.Fault{Status: 500}
	}
	p := r.policy("meter = \"m\"\nmode = \"event\"")
	r.get(p, 200)
	dead := func(n int) {
		t.Helper()
		eventually(t, func() error {
			if s := r.l.Status(); s.Dead != n {
				return fmt.Errorf("%d are dead, want %d", s.Dead, n)
			}
			return nil
		})
	}
	r.skip.Store(int64(167 * time.Hour))
	dead(0)
	r.skip.Store(int64(169 * time.Hour))
	dead(1)
	if list := r.l.List(Query{State: "dead"}).Charges; !strings.Contains(list[0].Reason, "for too long: it answers 500") {
		t.Errorf("it is dead for %q", list[0].Reason)
	}
	if _, err := r.l.Retry(""); err != nil {
		t.Fatal(err)
	}
	r.l.look(r.l.Now())
	dead(0)
	up.Store(true)
	r.settled("1")
}

// TestLeaseEnds: what is left goes back when its time is over, and the next is asked
// for ahead.
func TestLeaseEnds(t *testing.T) {
	r := newRig(t)
	p := r.policy("meter = \"m\"\nmode = \"lease\"\nlease = \"10\"")
	asked := func() int { return r.billing.Asked() }
	for i := range 6 { // the sixth has the next one asked for, and waits for none
		if x := r.get(p, 200); x.Err != nil {
			t.Fatal(i, x.Err)
		}
	}
	eventually(t, func() error {
		if n := asked(); n != 2 {
			return fmt.Errorf("%d leases were asked for", n)
		}
		return nil
	})
	for range 4 {
		r.get(p, 200)
	}
	if n := asked(); n != 2 {
		t.Errorf("%d leases were asked for 10 requests", n)
	}
	r.skip.Store(int64(10 * time.Minute))
	eventually(t, func() error {
		if n := r.billing.Count("returned"); n != 2 {
			return fmt.Errorf("%d leases are returned", n)
		}
		return nil
	})
	if got := r.billing.Units("", ""); got != "10" {
		t.Errorf("%s units were charged, want 10", got)
	}
}

// TestInUse: a second gateway would drop the files of the first.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	first, second := NewLedger(Deps{Log: quiet(), Path: dir}), NewLedger(Deps{Log: quiet(), Path: dir})
	if err := first.open(); err != nil {
		t.Fatal(err)
	}
	if err := second.open(); err == nil || !strings.Contains(err.Error(), "is in use by another sidegate") {
		t.Errorf("a second one: %v", err)
	}
	if err := first.file.close(); err != nil {
		t.Fatal(err)
	}
	if err := second.open(); err != nil {
		t.Errorf("after the first: %v", err)
	}
}
