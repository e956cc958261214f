package cache

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// onDisk runs a store's disk in dir until the test, or stop, ends it.
func onDisk(t testing.TB, s *Store, dir string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := logrus.New()
	log.SetOutput(t.Output())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx, log, dir)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	until(t, "the disk is used", func() bool { return s.disk.takes() && !s.Disk().Reading })
	return stop
}

func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// wideText is the body of a URI's version; some go to the disk as they come.
func wideText(n int, version int64) string {
	return strings.Repeat(fmt.Sprintf("%d/%d;", n, version), []int{300, 4000, 30_000}[n%3])
}

// TestRaceDisk: with fetching, waiting, changing, purging, softening, attaching, less
// and more memory, and a disk that has too little room, at once, nobody gets what
// isn't that URI's, or what was there before a change; and in the end the index, the
// bytes that it counts, and the files are the same.
func TestRaceDisk(t *testing.T) {
	const uris, disk = 60, 3 << 19
	dir := t.TempDir()
	s := NewStore(StoreConfig{Memory: 1 << 20, Disk: disk})
	stop := onDisk(t, s, dir)
	p := newPolicy(t, s, "wait = \"50ms\"\nmax_object = \"10MiB\"")
	var versions [uris]version
	var wg sync.WaitGroup
	for worker := range 12 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 7))
			for range 400 {
				n := rnd.IntN(uris)
				url := fmt.Sprintf("https://api.example.com/%d", n)
				switch k := rnd.IntN(100); {
				case k < 4:
					change(t, p, url, &versions[n])
				case k < 6:
					versions[n].begun.Add(1)
					if _, err := s.Purge(purges(n)[rnd.IntN(3)]); err != nil {
						t.Error(err)
					}
					versions[n].done.Add(1)
				case k < 7:
					_, _ = s.Purge(Purge{URLs: []string{url + "*"}})
				case k < 8:
					s.SetMemory(int64(1+rnd.IntN(3)) << 20)
				case k < 12:
					s.allOf(url, func(*meta) action { return softenIt })
				default:
					raceWide(t, p, rnd, n, &versions[n])
				}
			}
		})
	}
	wg.Wait()
	state := s.Disk()
	t.Logf("%+v", state)
	if state.Written == 0 || state.Hits == 0 || state.Evicted == 0 || state.Broken > 0 {
		t.Error("the disk should have been written, read, and full, and nothing broken")
	}
	stop()
	sound(t, s, dir)
}

// asks is what policies have put into a field for the service.
func asks(x *exchange.Exchange, field string) string {
	for i := range x.RequestEdits.Len() {
		if name, value, ok := x.RequestEdits.Field(i); ok && name == field {
			return value
		}
	}
	return ""
}

func change(t *testing.T, p *Policy, url string, v *version) {
	x := policytest.Exchange(t, "PUT "+url)
	if _, err := p.Request(x); err != nil {
		t.Error(err)
	}
	v.begun.Add(1)
	x.Tries = 1
	policytest.Answer(x, 204, "")
	_ = p.Response(x)
	p.Finish(x)
	v.done.Add(1)
}

func raceWide(t *testing.T, p *Policy, rnd *rand.Rand, n int, changes *version) {
	least := changes.done.Load()
	x := policytest.Exchange(t, fmt.Sprintf("GET https://api.example.com/%d", n))
	x.Start = time.Now()
	v, err := p.Request(x)
	if err != nil {
		t.Error(err)
		return
	}
	if v == policy.Next {
		x.Tries = 1
		of := changes.begun.Load()
		etag := fmt.Sprintf("\"%d\"", of)
		text := wideText(n, of)
		if asks(x, "If-None-Match") == etag {
			policytest.Answer(x, 304, "", "Cache-Control: max-age=100", "ETag: "+etag)
		} else {
			policytest.Answer(x, 200, "", "Cache-Control: max-age=100", "ETag: "+etag, fmt.Sprint("Surrogate-Key: t", n))
			r := io.NopCloser(strings.NewReader(text))
			x.ResponseBody, x.ResponseLength = pipe{r, r}, int64(len(text))
			if rnd.IntN(2) == 0 {
				x.ResponseLength = -1
			}
		}
		_ = p.Response(x)
	}
	if x.Status != 200 {
		t.Errorf("%d", x.Status)
	}
	if rnd.IntN(5) > 0 { // the others leave before they have read it
		b, err := io.ReadAll(x.ResponseBody)
		var uri int
		var of int64
		if _, scan := fmt.Sscanf(string(b), "%d/%d;", &uri, &of); err != nil || scan != nil || uri != n || string(b) != wideText(n, of) || of < least {
			t.Errorf("%d gets %d bytes, of %d/%d, want %d at least: %v", n, len(b), uri, of, least, err)
		}
	}
	_ = x.ResponseBody.Close()
	p.Finish(x)
}

// sound holds the index against itself, what it counts, and the files.
func sound(t *testing.T, s *Store, dir string) {
	t.Helper()
	var used, index, disk int64
	files := map[string]bool{}
	for i := range s.shards {
		sh := &s.shards[i]
		if len(sh.flights) > 0 {
			t.Errorf("%d flights are left", len(sh.flights))
		}
		n, queued := 0, int64(0)
		for at, it := range sh.slots {
			if it == nil {
				continue
			}
			n++
			used += it.weight()
			if it.self != uint32(at) || sh.find(it.hash, text(it.key())) != it || !sh.knows(it.uriHash) {
				t.Errorf("item %d of shard %d isn't found", at, i)
			}
			if it.has(hasBody) != (it.queue != inNone) {
				t.Errorf("an item is in queue %d", it.queue)
			}
			if it.queue == inNone {
				index += it.weight()
			} else {
				queued += it.weight()
			}
			if it.place != 0 {
				q := sh.places[it.place]
				disk, used, index = disk+q.bytes, used+placeSize, index+placeSize
				files[s.disk.path(q.name)] = true
				if q.self != it.self || q.id != it.id {
					t.Errorf("place %d isn't its item's", it.place)
				}
			}
		}
		if n != sh.count || queued != sh.window.bytes+sh.main.bytes {
			t.Errorf("shard %d: %d items, it counts %d; %d bytes, it counts %d", i, n, sh.count, queued, sh.window.bytes+sh.main.bytes)
		}
	}
	if used != s.used.Load() || index != s.index.Load() || s.flying.Load() != 0 || disk != s.disk.used.Load() || int64(len(files)) != s.disk.files.Load() {
		t.Errorf("%d bytes of memory, it counts %d; %d of the index, it counts %d; %d fly; %d on disk, it counts %d; %d files, it counts %d",
			used, s.used.Load(), index, s.index.Load(), s.flying.Load(), disk, s.disk.used.Load(), len(files), s.disk.files.Load())
	}
	if used > s.most.Load() || disk > s.disk.most.Load() {
		t.Errorf("%d bytes of memory, %d on disk", used, disk)
	}
	_ = filepath.WalkDir(filepath.Join(dir, "cache"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == lockFile {
			return err
		}
		if !files[path] {
			t.Errorf("%s is left", path)
		}
		delete(files, path)
		return nil
	})
	if len(files) > 0 {
		t.Errorf("%d files are gone", len(files))
	}
}
