package discovery_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
)

// pushed is a source that a test feeds.
type pushed struct {
	mu      sync.Mutex // guards what follows
	set     []discovery.Instance
	known   bool
	broken  bool
	changed chan struct{}
}

func newPushed() *pushed { return &pushed{changed: make(chan struct{})} }

func (p *pushed) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pushed) push(set []discovery.Instance) { p.change(func() { p.set, p.known = set, true }) }

func (p *pushed) Watch(ctx context.Context, _ discovery.Query, update func([]discovery.Instance)) error {
	for {
		p.mu.Lock()
		set, ok, changed := append([]discovery.Instance(nil), p.set...), p.known && !p.broken, p.changed
		p.mu.Unlock()
		if ok {
			update(set)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// logged is a log whose lines a test can count.
type logged struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func newLog() (*logged, logrus.FieldLogger) {
	out, l := new(logged), logrus.New()
	l.SetOutput(out)
	return out, l
}

var two = []discovery.Instance{
	{ID: "a", Address: "10.0.0.1:80", Node: "n1", Weight: 3, Tags: []string{"v1"}, Meta: map[string]string{"k": "v"}, Local: true},
	{ID: "b", Address: "10.0.0.2:80", Node: "n2", Weight: 1, Health: discovery.Critical},
}

func TestStaticContract(t *testing.T) {
	discoverytest.Run(t, func(t *testing.T) discoverytest.Subject {
		src, err := discovery.Static([]string{"127.0.0.1:81", "[2001:db8::1]:82"})
		if err != nil {
			t.Fatal(err)
		}
		return discoverytest.Subject{Source: src, First: []discovery.Instance{
			{Address: "127.0.0.1:81", Weight: 1}, {Address: "[2001:db8::1]:82", Weight: 1}}}
	})
}

func TestSnapshotContract(t *testing.T) {
	for _, dir := range []string{"", "x"} {
		t.Run("dir="+dir, func(t *testing.T) {
			discoverytest.Run(t, func(t *testing.T) discoverytest.Subject {
				if dir != "" {
					dir = t.TempDir()
				}
				_, log := newLog()
				p := newPushed()
				p.push(two)
				return discoverytest.Subject{
					Source: discovery.NewSnapshots(dir, log).Wrap("test", p), Query: discovery.Query{Service: "s"}, First: two,
					Set:   func(_ *testing.T, set []discovery.Instance) { p.push(set) },
					Break: func(*testing.T) { p.change(func() { p.broken = true }) },
					Mend:  func(*testing.T) { p.change(func() { p.broken = false }) },
				}
			})
		})
	}
}

func length(n int) func([]discovery.Instance) bool {
	return func(s []discovery.Instance) bool { return len(s) == n }
}

func TestSnapshotServesWithoutSource(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "snapshots")
	_, log := newLog()
	q := discovery.Query{Service: "s", Tags: []string{"v1"}}
	s := discovery.NewSnapshots(dir, log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	p := newPushed()
	p.push(two)
	r := discoverytest.Watch(t, s.Wrap("test", p), q)
	r.Await(t, "the set", length(2))
	discoverytest.Eventually(t, "the file", func() bool { return len(files(t, dir)) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(files(t, dir)[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}

	s = discovery.NewSnapshots(dir, log)
	p = newPushed()
	r = discoverytest.Watch(t, s.Wrap("test", p), q)
	r.Await(t, "the stored set", length(2))
	if got := r.Last()[0]; got.Meta["k"] != "v" || !got.Local || got.Weight != 3 || r.Last()[1].Health != discovery.Critical {
		t.Errorf("stored set = %+v", r.Last())
	}
	st := s.Status()
	if len(st) != 1 || st[0].State != discovery.SnapshotStale || st[0].Stored.IsZero() || st[0].Instances != 2 || st[0].Query != "s tags v1" {
		t.Errorf("Status = %+v", st)
	}
	p.push(two[:1])
	r.Await(t, "the live set", length(1))
	if st := s.Status(); st[0].State != discovery.SnapshotLive || !st[0].Stored.IsZero() {
		t.Errorf("Status = %+v", st)
	}
	for name, other := range map[string]discovery.Source{"another source": s.Wrap("other", newPushed())} {
		r := discoverytest.Watch(t, other, q)
		if r.Count() != 0 {
			t.Errorf("%s got the stored set", name)
		}
	}
	r.Stop(t)
	st = s.Status()
	for end := time.Now().Add(10 * time.Second); len(st) != 1 && time.Now().Before(end); st = s.Status() {
		time.Sleep(time.Millisecond) // the other may only be starting
	}
	if len(st) != 1 || st[0].Source != "other" {
		t.Errorf("Status = %+v, want the other's only", st)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*.snap"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestSnapshotSaveLoad(t *testing.T) {
	dir := t.TempDir()
	_, log := newLog()
	s := discovery.NewSnapshots(dir, log)
	s.Save("kv/sidegate/", map[string][]byte{"a": []byte("old")})
	s.Save("kv/sidegate/", map[string][]byte{"a": {0, 255}})
	s.Save("claims", []discovery.Claim{{Service: "s"}})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var kv map[string][]byte
	age, ok := s.Load("kv/sidegate/", &kv)
	if !ok || age < 0 || age > time.Minute || !bytes.Equal(kv["a"], []byte{0, 255}) {
		t.Errorf("Load = %v, %v, %v", kv, age, ok)
	}
	var claims []discovery.Claim
	if _, ok := s.Load("claims", &claims); !ok || len(claims) != 1 || claims[0].Service != "s" {
		t.Errorf("Load = %v, %v", claims, ok)
	}
	if _, ok := s.Load("nothing", &kv); ok {
		t.Error("Load of nothing = true")
	}
	nowhere := discovery.NewSnapshots("", log)
	nowhere.Save("a", 1)
	if err := nowhere.Close(); err != nil {
		t.Error(err)
	}
	if _, ok := nowhere.Load("a", new(int)); ok {
		t.Error("Load without a folder = true")
	}
}

func TestSnapshotDamaged(t *testing.T) {
	damage := map[string]func([]byte) []byte{
		"empty":      func([]byte) []byte { return nil },
		"truncated":  func(b []byte) []byte { return b[:len(b)-3] },
		"bit flip":   func(b []byte) []byte { b[len(b)-2] ^= 1; return b },
		"garbage":    func([]byte) []byte { return []byte("\x00\x01garbage\nmore") },
		"other kind": func([]byte) []byte { return []byte("{\"format\":\"v9\"}\n{}") },
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			out, log := newLog()
			s := discovery.NewSnapshots(dir, log)
			s.Save("k", map[string]string{"a": "b"})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := files(t, dir)[0]
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, do(b), 0o600); err != nil {
				t.Fatal(err)
			}
			var v map[string]string
			for range 3 {
				if _, ok := s.Load("k", &v); ok || v != nil {
					t.Errorf("Load = %v, %v, want nothing", v, ok)
				}
			}
			if n := out.count("can't be used"); n != 1 {
				t.Errorf("logged %d times, want once", n)
			}
			s.Save("k", map[string]string{"a": "c"})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if _, ok := s.Load("k", &v); !ok || v["a"] != "c" {
				t.Errorf("Load after a new Save = %v, %v", v, ok)
			}
		})
	}
}

// A folder that can't be written, as a full disk can't, is logged once; when it
// can be written again, what waited is written.
func TestSnapshotUnwritable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, log := newLog()
	s := discovery.NewSnapshots(dir, log)
	for i := range 3 {
		s.Save("k", i)
		if s.Close() == nil {
			t.Error("Close = nil, want an error")
		}
	}
	if n := out.count("can't be written"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var v int
	if _, ok := s.Load("k", &v); !ok || v != 2 {
		t.Errorf("Load = %d, %v, want 2", v, ok)
	}
	if n := out.count("written again"); n != 1 {
		t.Errorf("end of it logged %d times, want once", n)
	}
}

func TestSnapshotBounds(t *testing.T) {
	out, log := newLog()
	s := discovery.NewSnapshots(t.TempDir(), log)
	s.Save("big", strings.Repeat("x", 33<<20))
	s.Save("odd", func() {})
	if s.Close() == nil {
		t.Error("Close = nil, want an error")
	}
	if out.count("can't be written") != 1 {
		t.Error("it isn't logged once")
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close = %v: what can't be stored is tried again", err)
	}
}

func TestSnapshotSweep(t *testing.T) {
	dir := t.TempDir()
	_, log := newLog()
	s := discovery.NewSnapshots(dir, log)
	s.Save("k", 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	torn, foreign := filepath.Join(dir, ".new-123"), filepath.Join(dir, "README")
	for _, f := range []string{torn, foreign} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	discoverytest.Eventually(t, "the torn file is gone", func() bool { _, err := os.Stat(torn); return os.IsNotExist(err) })
	cancel()
	<-done
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
	if _, ok := s.Load("k", new(int)); !ok {
		t.Error("the good one is gone")
	}
}
