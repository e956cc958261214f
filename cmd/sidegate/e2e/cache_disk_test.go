package e2e

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// content is the body of the answers to /SEED/SIZE: of the URL, and nothing else.
func content(path string) []byte {
	var seed uint64
	var size int
	if n, err := fmt.Sscanf(path, "/%d/%d", &seed, &size); n != 2 || err != nil {
		return nil
	}
	b, r := make([]byte, size), rand.New(rand.NewPCG(seed, uint64(size)))
	for i := 0; i < size; i += 8 {
		v := r.Uint64()
		for j := i; j < min(i+8, size); j++ {
			b[j], v = byte(v), v>>8
		}
	}
	return b
}

// library answers with content, and counts.
type library struct {
	calls atomic.Int64
	mu    sync.Mutex
	of    map[string]int
}

func (l *library) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.calls.Add(1)
	l.mu.Lock()
	l.of[r.URL.Path]++
	l.mu.Unlock()
	if r.Method == "POST" {
		return
	}
	b := content(r.URL.Path)
	w.Header().Set("Cache-Control", "max-age=1000")
	w.Header().Set("ETag", `"`+r.URL.Path+`"`)
	if r.URL.Query().Has("vary") {
		w.Header().Set("Vary", "X-Lang")
	}
	if !r.URL.Query().Has("chunked") {
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	}
	for len(b) > 0 {
		n := min(len(b), 100_000)
		_, _ = w.Write(b[:n])
		b = b[n:]
	}
}

func (l *library) asked(path string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of[path]
}

// diskGateway is a gateway with a cache on disk, not started yet.
func diskGateway(t *testing.T, room string) (*gateway, *library) {
	t.Helper()
	real(t)
	l := &library{of: map[string]int{}}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	g := newGateway(t, fmt.Sprintf(`
cache {
  memory = "2MiB"
  disk   = %q
}
service "origin" { instances = [%q] }
route "plain" {
  hosts   = ["disk.test"]
  service = "origin"
  cache { max_object = "64MiB" }
}
`, room, s.Listener.Addr()))
	return g, l
}

func (g *gateway) cacheFiles(t *testing.T) (list []string) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(g.dir, "state", "cache"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != "lock" {
			list = append(list, path)
		}
		return nil // what is gone meanwhile is gone
	})
	return list
}

// diskGet asks for a path and compares the body; err: there is none, or not all of it.
func diskGet(c *http.Client, path string, fields ...string) (resp *http.Response, b []byte, err error) {
	r, err := http.NewRequest("GET", "http://disk.test"+path, nil)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err = c.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(resp.Body)
	return resp, b, err
}

func mustBe(t *testing.T, c *http.Client, path string) string {
	t.Helper()
	resp, b, err := diskGet(c, path)
	if err != nil || resp.StatusCode != 200 || !bytes.Equal(b, content(path)) {
		t.Fatalf("%s: %d bytes, %v, %v", path, len(b), resp, err)
	}
	return resp.Header.Get("Cache-Status")
}

// onDisk fetches a path until it comes from the cache.
func onDisk(t *testing.T, c *http.Client, path string) {
	t.Helper()
	eventually(t, path+" is stored", func() error {
		if how := mustBe(t, c, path); !strings.Contains(how, "hit") {
			return fmt.Errorf("%s", how)
		}
		return nil
	})
}

// TestCacheDisk: large answers are kept on disk, small ones that memory has no more
// room for, too, and a restart keeps both: whole, in parts, by HEAD and validators, of
// their age.
func TestCacheDisk(t *testing.T) {
	g, l := diskGateway(t, "200MiB")
	g.start(t)
	c := plainClient(g)
	paths := []string{"/1/3000000", "/2/3000000?chunked", "/3/100000", "/4/5000000?vary"}
	for _, p := range paths {
		onDisk(t, c, p)
	}
	const few = 200 // of 30 kB: thrice the memory
	for range 3 {
		for i := range few {
			mustBe(t, c, fmt.Sprintf("/%d/30000", 1000+i))
		}
	}
	eventually(t, "answers overflow to the disk", func() error {
		for i := range few {
			mustBe(t, c, fmt.Sprintf("/%d/30000", 1000+i))
		}
		if n := len(g.cacheFiles(t)); n < few/2 {
			return fmt.Errorf("%d files", n)
		}
		return nil
	})
	text, err := g.get("/metrics")
	if err != nil || !strings.Contains(text, "sidegate_cache_disk_hits_total") || strings.Contains(text, "sidegate_cache_disk_broken_total 1") {
		t.Errorf("%v: %s", err, text)
	}
	if out, code := run(t, "cache", "stats", "-config", g.config()); code != 0 || !strings.Contains(out, "of them on disk") {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		g.stop(how)
		g.start(t)
		c = plainClient(g)
		eventually(t, "the files are read", func() error {
			if out, _ := run(t, "cache", "stats", "-config", g.config()); strings.Contains(out, "being read") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		before := l.calls.Load()
		for _, p := range paths {
			if how := mustBe(t, c, p); !strings.Contains(how, "hit") {
				t.Errorf("%s after a restart: %s", p, how)
			}
			checkParts(t, c, p)
		}
		if n := l.calls.Load() - before; n != 0 {
			t.Errorf("%d requests to the service after a restart", n)
		}
		hits := 0
		for i := range few {
			if strings.Contains(mustBe(t, c, fmt.Sprintf("/%d/30000", 1000+i)), "hit") {
				hits++
			}
		}
		if hits < few/2 {
			t.Errorf("%d of %d small answers after a restart", hits, few)
		}
	}
}

func checkParts(t *testing.T, c *http.Client, p string) {
	t.Helper()
	b := content(p)
	size := len(b)
	for _, tt := range []struct{ from, to int }{{0, 10}, {40_000, 90_001}, {size - 5, size}, {32768, 65536}, {0, size}} {
		resp, got, err := diskGet(c, p, "Range", fmt.Sprintf("bytes=%d-%d", tt.from, tt.to-1))
		if err != nil || resp.StatusCode != 206 || !bytes.Equal(got, b[tt.from:tt.to]) {
			t.Errorf("%s %v: %d bytes, %v, %v", p, tt, len(got), resp, err)
		}
	}
	path, _, _ := strings.Cut(p, "?")
	resp, got, err := diskGet(c, p, "If-None-Match", `"`+path+`"`)
	if err != nil || resp.StatusCode != 304 || len(got) > 0 {
		t.Errorf("%s: %v, %v, want 304", p, resp, err)
	}
	resp, err = c.Head("http://disk.test" + p)
	if err != nil || resp.StatusCode != 200 || resp.ContentLength != int64(size) {
		t.Errorf("HEAD %s: %v, %v", p, resp, err)
	}
	if resp != nil {
		_ = resp.Body.Close()
	}
}

// TestCacheDiskKilled: killed in the middle of writing, again and again, the gateway
// never gives an answer that isn't the service's, and all that it wrote before stays.
func TestCacheDiskKilled(t *testing.T) {
	g, l := diskGateway(t, "24MiB")
	const rounds = 100
	hits, right := 0, 0
	for round := range rounds {
		g.start(t)
		c := plainClient(g)
		var wg sync.WaitGroup
		var mu sync.Mutex
		stop := make(chan struct{})
		for worker := range 6 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(round), uint64(worker)))
				for {
					select {
					case <-stop:
						return
					default:
					}
					p := fmt.Sprintf("/%d/%d", r.IntN(12), []int{700, 40_000, 400_000, 2_000_000}[r.IntN(4)])
					if r.IntN(2) == 0 {
						p += "?chunked"
					}
					resp, b, err := diskGet(c, p)
					if err != nil {
						continue // it was killed
					}
					mu.Lock()
					right++
					if resp.StatusCode == 200 && !bytes.Equal(b, content(p)) {
						t.Errorf("round %d: %s gives %d other bytes, %s", round, p, len(b), resp.Header.Get("Cache-Status"))
					}
					if strings.Contains(resp.Header.Get("Cache-Status"), "hit") {
						hits++
					}
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond) // when it is killed is to be any time
		g.stop(syscall.SIGKILL)
		close(stop)
		wg.Wait()
		c.CloseIdleConnections()
		if t.Failed() {
			return
		}
	}
	t.Logf("%d answers, %d from the cache, %d from the service, %d files", right, hits, l.calls.Load(), len(g.cacheFiles(t)))
	if hits == 0 {
		t.Error("nothing came from the cache")
	}
	g.start(t)
	text, err := g.get("/metrics")
	if err != nil || !strings.Contains(text, "sidegate_cache_disk_broken_total 0") {
		t.Errorf("%v: files are broken:\n%s", err, text)
	}
	used := int64(0)
	for _, f := range g.cacheFiles(t) {
		if info, err := os.Stat(f); err == nil {
			used += info.Size()
		}
	}
	if used > 24<<20 {
		t.Errorf("%d bytes on disk, want %d at most", used, 24<<20)
	}
}

// TestCacheDiskBroken: whatever happens to a file, no wrong byte is given.
func TestCacheDiskBroken(t *testing.T) {
	g, _ := diskGateway(t, "100MiB")
	g.start(t)
	c := plainClient(g)
	const path = "/7/150000"
	var broken, missed int
	try := func(what string, change func(name string, size int64) error) {
		t.Helper()
		onDisk(t, c, path)
		list := g.cacheFiles(t)
		if len(list) != 1 {
			t.Fatalf("%d files", len(list))
		}
		info, err := os.Stat(list[0])
		if err == nil {
			err = change(list[0], info.Size())
		}
		if err != nil {
			t.Fatal(err)
		}
		resp, b, err := diskGet(c, path)
		switch {
		case err != nil && resp != nil && bytes.HasPrefix(content(path), b):
			broken++
		case err != nil || !bytes.Equal(b, content(path)):
			t.Fatalf("%s: %d bytes, %v", what, len(b), err)
		case !strings.Contains(resp.Header.Get("Cache-Status"), "hit"):
			missed++
		}
		mustBe(t, c, path)
	}
	onDisk(t, c, path)
	for i := range 120 {
		try(fmt.Sprint("flip ", i), func(name string, size int64) error {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			at := size * int64(i) / 120
			if i%3 == 0 { // the header is small
				at = size - 1 - int64(i)*4
			}
			b := make([]byte, 1)
			if _, err := f.ReadAt(b, at); err != nil {
				return err
			}
			b[0] ^= 1 << (i % 8)
			_, err = f.WriteAt(b, at)
			return err
		})
	}
	for _, n := range []int64{0, 1, 16, 50_000, 149_000, 150_100} {
		try(fmt.Sprint("truncated to ", n), func(name string, _ int64) error { return os.Truncate(name, n) })
	}
	try("gone", func(name string, _ int64) error { return os.Remove(name) })
	try("unreadable", func(name string, _ int64) error {
		if err := os.Remove(name); err != nil {
			return err
		}
		return os.Mkdir(name, 0o700)
	})
	t.Logf("%d broken off, %d missed", broken, missed)
	if broken == 0 || missed == 0 {
		t.Error("there should be some of both")
	}
	// Foreign and broken files before a start.
	g.stop(syscall.SIGTERM)
	foreign := write(t, filepath.Join(g.dir, "state", "cache", "ab", "README"), "not ours")
	rubbish := write(t, filepath.Join(g.dir, "state", "cache", "ab", "ab00000000000000-0000000000000001"), strings.Repeat("rubbish ", 1000))
	g.start(t)
	c = plainClient(g)
	mustBe(t, c, path)
	eventually(t, "what is broken is removed", func() error {
		if _, err := os.Stat(rubbish); err == nil {
			return fmt.Errorf("%s is there", rubbish)
		}
		return nil
	})
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
}

// TestCacheDiskForgets: what was purged, or changed by a request, is gone from the
// disk when that is answered: a kill right after it brings nothing back.
func TestCacheDiskForgets(t *testing.T) {
	g, l := diskGateway(t, "100MiB")
	g.start(t)
	c := plainClient(g)
	paths := []string{"/1/1000000", "/2/1000000", "/3/1000000", "/4/1000000"}
	for _, p := range paths {
		onDisk(t, c, p)
	}
	if out, code := run(t, "cache", "purge", "http://disk.test/1/*", "-config", g.config()); code != 0 || !strings.Contains(out, "1 answers are forgotten") {
		t.Fatalf("exit %d: %s", code, out)
	}
	post := func(p string) {
		t.Helper()
		resp, err := c.Post("http://disk.test"+p, "text/plain", nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		_ = resp.Body.Close()
	}
	post(paths[1])
	g.stop(syscall.SIGKILL)
	g.start(t)
	c = plainClient(g)
	post(paths[2]) // maybe before its file has been read
	g.stop(syscall.SIGKILL)
	g.start(t)
	c = plainClient(g)
	eventually(t, "the files are read", func() error {
		if out, _ := run(t, "cache", "stats", "-config", g.config()); strings.Contains(out, "being read") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	for i, p := range paths {
		before := l.asked(p)
		mustBe(t, c, p)
		if fetched, want := l.asked(p)-before, map[bool]int{true: 0, false: 1}[i == 3]; fetched != want {
			t.Errorf("%s: fetched %d times, want %d", p, fetched, want)
		}
	}
}

// TestCacheDiskFull: a full disk costs what would be stored there, not service; when
// there is room again, it is used.
func TestCacheDiskFull(t *testing.T) {
	g, _ := diskGateway(t, "100MiB")
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := filepath.Join(g.dir, "state", "cache")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("this machine doesn't let a test mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	g.start(t)
	c := plainClient(g)
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		mustBe(t, c, fmt.Sprintf("/%d/3000000", i))
		mustBe(t, c, fmt.Sprintf("/%d/500", i))
	}
	onDisk(t, c, "/5/500") // that is memory
	eventually(t, "status says so", func() error {
		out, _ := run(t, "status", "-config", g.config())
		if !strings.Contains(out, "no space left on device") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if n := strings.Count(g.log.String(), "answers can't be kept on disk"); n != 1 {
		t.Errorf("it says %d times that the disk fails", n)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the disk is used again", func() error {
		mustBe(t, c, "/1/1000000")
		if !strings.Contains(g.log.String(), "kept on disk again") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	onDisk(t, c, "/1/1000000")
}

// TestCacheDiskTaken: a folder is one gateway's; another goes on in memory, and takes
// it over when it is free.
func TestCacheDiskTaken(t *testing.T) {
	a, _ := diskGateway(t, "100MiB")
	a.start(t)
	b, _ := diskGateway(t, "100MiB")
	text, err := os.ReadFile(b.config())
	if err != nil {
		t.Fatal(err)
	}
	write(t, b.config(), strings.Replace(string(text), `disk   = "100MiB"`, fmt.Sprintf("disk = \"100MiB\"\n  directory = %q", filepath.Join(a.dir, "state", "cache")), 1))
	b.start(t)
	eventually(t, "it says so", func() error {
		if !strings.Contains(b.log.String(), "in use by another sidegate") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	mustBe(t, plainClient(b), "/1/3000000")
	onDisk(t, plainClient(b), "/1/500")
	a.stop(syscall.SIGTERM)
	onDisk(t, plainClient(b), "/1/3000000")
}
