package tls

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/sirupsen/logrus"
	"go.uber.org/zap"
)

// memoryKV is a KV as a fleet would share it.
type memoryKV struct {
	mu    sync.Mutex
	data  map[string][]byte
	locks map[string]chan struct{}
}

func newMemoryKV() *memoryKV {
	return &memoryKV{data: make(map[string][]byte), locks: make(map[string]chan struct{})}
}

func (m *memoryKV) Get(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.data[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(b), nil
}

func (m *memoryKV) Put(_ context.Context, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data[key] = bytes.Clone(value)
	return nil
}

func (m *memoryKV) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, key)
	return nil
}

func (m *memoryKV) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for k := range m.data {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

func (m *memoryKV) Lock(ctx context.Context, key string) (<-chan struct{}, func() error, error) {
	m.mu.Lock()
	l := m.locks[key]
	if l == nil {
		l = make(chan struct{}, 1)
		m.locks[key] = l
	}
	m.mu.Unlock()
	select {
	case l <- struct{}{}:
		return make(chan struct{}), func() error { <-l; return nil }, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

func sealKey(t *testing.T, dir string) {
	t.Helper()
	writeFile(t, filepath.Join(dir, sealerFile), []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))))
}

func storages(t *testing.T) map[string][2]certmagic.Storage {
	dir := t.TempDir()
	sealKey(t, dir)
	seal, err := newSealer(dir)
	if err != nil {
		t.Fatal(err)
	}
	kv, files := newMemoryKV(), filepath.Join(dir, "files")
	return map[string][2]certmagic.Storage{
		"file": {newFileStorage(files), newFileStorage(files)},
		"kv":   {newKVStorage(kv, seal), newKVStorage(kv, seal)},
	}
}

func TestStorage(t *testing.T) {
	for name, pair := range storages(t) {
		t.Run(name, func(t *testing.T) {
			ctx, s, other := t.Context(), pair[0], pair[1]
			if _, err := s.Load(ctx, "a/b/c"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Load of nothing: %v", err)
			}
			for _, k := range []string{"a/b/c", "a/b/d", "a/e", "f"} {
				if err := s.Store(ctx, k, []byte("value of "+k)); err != nil {
					t.Fatal(err)
				}
			}
			if b, err := other.Load(ctx, "a/b/d"); err != nil || string(b) != "value of a/b/d" {
				t.Errorf("Load = %q, %v", b, err)
			}
			list, err := s.List(ctx, "a", false)
			slices.Sort(list)
			if err != nil || !slices.Equal(list, []string{"a/b", "a/e"}) {
				t.Errorf("List = %v, %v", list, err)
			}
			if info, err := s.Stat(ctx, "a/e"); err != nil || info.Size != 12 || !info.IsTerminal || time.Since(info.Modified) > time.Minute {
				t.Errorf("Stat = %+v, %v", info, err)
			}
			if info, err := s.Stat(ctx, "a/b"); err != nil || info.IsTerminal {
				t.Errorf("Stat of a prefix = %+v, %v", info, err)
			}
			if err := s.Delete(ctx, "a/b"); err != nil || s.Exists(ctx, "a/b/c") || !s.Exists(ctx, "a/e") {
				t.Errorf("Delete: %v", err)
			}
			lockOneAtATime(t, s, other)
		})
	}
}

func lockOneAtATime(t *testing.T, s, other certmagic.Storage) {
	t.Helper()
	ctx := t.Context()
	if err := s.Lock(ctx, "*.x"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err := other.Lock(short, "*.x"); err == nil {
		t.Error("two have the lock")
	}
	got := make(chan error, 1)
	go func() { got <- other.Lock(ctx, "*.x") }()
	if err := s.Unlock(ctx, "*.x"); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("the lock isn't handed over: %v", err)
	}
	if err := other.Unlock(ctx, "*.x"); err != nil {
		t.Error(err)
	}
	if err := other.Unlock(ctx, "*.x"); err == nil {
		t.Error("a lock that isn't held was given back")
	}
	var work sync.WaitGroup
	var inside, most atomic.Int64 // the kernel's lock is invisible to the race detector
	for i := range 8 {
		st := []certmagic.Storage{s, other}[i%2]
		work.Go(func() {
			if err := st.Lock(ctx, "count"); err != nil {
				t.Error(err)
				return
			}
			n := inside.Add(1)
			most.Store(max(most.Load(), n))
			runtime.Gosched()
			inside.Add(-1)
			if err := st.Unlock(ctx, "count"); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if most.Load() != 1 {
		t.Errorf("%d held the lock at once", most.Load())
	}
}

func TestSharedValuesAreSealed(t *testing.T) {
	dir := t.TempDir()
	if _, err := newSealer(dir); err == nil || !strings.Contains(err.Error(), sealerFile) {
		t.Errorf("without a key: %v", err)
	}
	sealKey(t, dir)
	seal, err := newSealer(dir)
	if err != nil {
		t.Fatal(err)
	}
	kv := newMemoryKV()
	s := newKVStorage(kv, seal)
	ctx := t.Context()
	if err := s.Store(ctx, "x.key", []byte("very private")); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(kv.data["x.key"], []byte("private")) {
		t.Error("the KV holds clear text")
	}
	kv.data["y.key"] = kv.data["x.key"]
	if _, err := s.Load(ctx, "y.key"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a value that was moved opens: %v", err)
	}
	kv.data["x.key"][3] ^= 1
	if _, err := s.Load(ctx, "x.key"); err == nil {
		t.Error("a changed value opens")
	}
	if err := s.Store(ctx, "big", make([]byte, maxValue)); err == nil {
		t.Error("a value larger than Consul takes was stored")
	}
}

// A gateway of the fleet answers for the one that ordered.
func TestFleetAnswersChallenges(t *testing.T) {
	kv := newMemoryKV()
	managers := make([]*Manager, 2)
	for i := range managers {
		dir := t.TempDir()
		sealKey(t, dir)
		log := logrus.New()
		log.SetOutput(testWriter{t})
		m, err := NewManager(Deps{Log: log, StateDir: dir, KV: kv})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		// Nobody listens there: both wait, after a first failure.
		commit(t, m, &Settings{Storage: "consul", ACME: &ACMESettings{Directory: "https://127.0.0.1:1/dir"}}, "fleet.example.com")
		managers[i] = m
	}
	u := managers[0].live.Load().unit
	sv, ok := u.issuer.client.ChallengeSolvers["http-01"].(solver)
	if !ok {
		t.Fatalf("solver is %T", u.issuer.client.ChallengeSolvers["http-01"])
	}
	for _, kind := range []string{acme.ChallengeTypeHTTP01, acme.ChallengeTypeTLSALPN01} {
		chal := acme.Challenge{Type: kind, Token: "tok", KeyAuthorization: "tok.thumb", Identifier: acme.Identifier{Type: "dns", Value: "fleet.example.com"}}
		if err := sv.Present(t.Context(), chal); err != nil {
			t.Fatal(err)
		}
	}
	body, ok := managers[1].HTTPChallenge("Fleet.example.com:80", challengePath+"tok")
	if !ok || body != "tok.thumb" {
		t.Errorf("HTTPChallenge = %q, %v", body, ok)
	}
	if _, ok := managers[1].HTTPChallenge("other.example.com", challengePath+"tok"); ok {
		t.Error("answered for another host")
	}
	if _, ok := managers[1].fleetChallenge(t.Context(), acme.ChallengeTypeTLSALPN01, "fleet.example.com"); !ok {
		t.Error("no TLS-ALPN-01 challenge")
	}
}

// Two gateways that share storage get one certificate between them.
func TestFleetOrdersOnce(t *testing.T) {
	kv := newMemoryKV()
	e := newEdge(t)
	p := startPebble(t, ports(e))
	dir := t.TempDir()
	sealKey(t, dir)
	s := p.settings()
	s.Storage = "consul"
	e.kv = kv
	e.serve(t, dir)
	other := newManagerKV(t, copyKey(t, dir), kv)
	commit(t, other, s, "once.example.com")
	commit(t, e.m, s, "once.example.com")
	c := e.await(t, "once.example.com", p.roots(t))
	wait(t, "the other gateway", 20*time.Second, func() bool {
		return statusOf(t, other, "once.example.com").NotAfter.Equal(c.NotAfter)
	})
	if n := p.issued(); n != 1 {
		t.Errorf("Pebble issued %d certificates, want 1", n)
	}
}

func copyKey(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, sealerFile))
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	writeFile(t, filepath.Join(to, sealerFile), b)
	return to
}

func TestStorageThatCannotBeWritten(t *testing.T) {
	dir := t.TempDir()
	// Nobody can make a file there, root neither.
	if err := os.Symlink("/proc/self/fdinfo", filepath.Join(dir, "certificates")); err != nil {
		t.Fatal(err)
	}
	e := newEdge(t)
	e.serve(t, dir)
	commit(t, e.m, &Settings{ACME: &ACMESettings{Directory: "https://127.0.0.1:1/dir"}}, "full.example.com")
	wait(t, "the error", 20*time.Second, func() bool { return statusOf(t, e.m, "full.example.com").Error != "" })
	st := statusOf(t, e.m, "full.example.com")
	if !strings.Contains(st.Error, "certificates") || st.NextTry.IsZero() {
		t.Errorf("Status() = %+v, want the path and another try", st)
	}
	if e.served("full.example.com", localRoots(e.m)) == nil {
		t.Error("the local authority's certificate isn't served")
	}
	if err := errors.Join(e.m.Problems()...); err == nil || !strings.Contains(err.Error(), "storing") {
		t.Errorf("Problems() = %v", err)
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	before := runtime.NumGoroutine()
	log := logrus.New()
	log.SetOutput(testWriter{t})
	m, err := NewManager(Deps{Log: log, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := &Settings{ACME: &ACMESettings{Directory: "https://127.0.0.1:1/dir"}}
	commit(t, m, s, "a.example.com", "b.example.com")
	commit(t, m, &Settings{ACME: &ACMESettings{Directory: "https://127.0.0.1:2/dir"}}, "b.example.com")
	commit(t, m, s, "b.example.com", "c.example.com")
	m.Close()
	m.Close()
	wait(t, "the goroutines to end", 20*time.Second, func() bool { return runtime.NumGoroutine() <= before })
	p, err := m.Plan(s, []string{"d.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(t.Context())
	if runtime.NumGoroutine() > before {
		t.Error("a plan was committed after Close")
	}
}

func TestZapLog(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	log.SetLevel(logrus.DebugLevel)
	z := newZap(log).With(zap.String("key_authorization", "hidden"))
	z.Info("obtaining", zap.String("identifier", "a.example.com"), zap.String("csr_pem", "hidden"), zap.Any("headers", map[string][]string{"Replay-Nonce": {"hidden"}}))
	for range 3 {
		z.Error("will retry", zap.Error(errors.New("refused")), zap.String("token", "hidden"), zap.String("long", strings.Repeat("x", 1<<20)))
	}
	s := out.String()
	if strings.Contains(s, "hidden") {
		t.Errorf("a secret is in the log: %s", s)
	}
	if strings.Count(s, "level=warning") != 1 || strings.Count(s, "level=debug") != 1 || !strings.Contains(s, "a.example.com") || !strings.Contains(s, "refused") {
		t.Errorf("log: %.500s", s)
	}
	if len(s) > 8<<10 {
		t.Errorf("%d bytes logged", len(s))
	}
}
