package cache

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"
)

const (
	diskQueue   = 16 << 20         // bytes that wait to be written
	retryEvery  = 5 * time.Second  // after the disk has failed
	tickEvery   = 10 * time.Second // when the time is noted, for clocks that are set back
	catchUpWait = 200 * time.Millisecond
	finishWait  = 2 * time.Second // for an answer to be in its place
	block       = 4 << 10         // a file takes whole ones
	lockFile    = "lock"
	tempPrefix  = "tmp-"
	mostUnready = 100_000 // URIs and keys that may change while files are looked at
)

// disk is the part of the store that is in files, one for each answer (see
// diskfile.go). A file is in the index, or it is unlinked: both happen under names.
// One goroutine writes, that of Run; what comes faster isn't stored. Requests read
// by themselves.
type disk struct {
	s      *Store
	dir    string
	log    logrus.FieldLogger
	open   atomic.Bool // the folder is ours, and can be written
	given  atomic.Bool // it is another process's (Yield): files are read, and none is made or removed
	hurry  atomic.Bool // it is about to be
	turns  chan turn   // what Run is to do between two jobs
	most   atomic.Int64
	used   atomic.Int64
	files  atomic.Int64
	counts diskCounts
	why    atomic.Pointer[string] // it isn't used, nil: it is

	names sync.Mutex // held while files get their names, and lose them

	mu     sync.Mutex // guards what follows
	queue  []job
	queued int64
	wake   chan struct{}
	freed  chan struct{} // one of the queue has been done

	ready   chan struct{}       // closed once all files have been looked at
	unready atomic.Bool         // not yet
	scan    sync.Mutex          // guards what follows
	keys    map[uint64]struct{} // that were stored, or dropped, since the start
	uris    map[uint64]struct{} // that were forgotten
	tooMany bool
}

type diskCounts struct{ written, dropped, failed, broken, evicted, hits atomic.Uint64 }

// DiskState is how the disk does.
type DiskState struct {
	Most    int64  `json:"most"`              // bytes; 0: none
	Used    int64  `json:"used"`              // bytes
	Files   int64  `json:"answers"`           // that are there
	Problem string `json:"problem,omitempty"` // why it isn't used
	Reading bool   `json:"reading"`           // what was there at the start isn't all known yet
	Written uint64 `json:"written"`           // answers
	Hits    uint64 `json:"hits"`              // answers that came from there
	Dropped uint64 `json:"dropped"`           // answers that weren't written since the disk was too slow
	Failed  uint64 `json:"failed"`            // writes
	Broken  uint64 `json:"broken"`            // files that weren't as they were written
	Evicted uint64 `json:"evicted"`           // answers that others took the place of
}

type job struct {
	bytes int64
	do    func()
}

// name is that of a file: it begins with its URI's, so that those of a URI can be
// found without an index.
type name struct{ uri, id uint64 }

func uriName(uri string) uint64 {
	sum := sha256.Sum256([]byte(uri))
	return binary.BigEndian.Uint64(sum[:])
}

func (n name) folder() string { return fmt.Sprintf("%02x", n.uri>>56) }
func (n name) String() string { return fmt.Sprintf("%016x-%016x", n.uri, n.id) }

// place is where the file of an answer is in the disk's list.
type place struct {
	name
	self  uint32 // the answer; 0: nobody's
	bytes int64  // that it takes
	at    int64  // of its header in the file
	head  uint32 // bytes of that
	used  int64  // when it was asked for
	old   bool   // the item's fields are newer
}

// placeSize is what one takes in the list.
const placeSize = int64(unsafe.Sizeof(place{}))

func (d *disk) init(s *Store, c StoreConfig) {
	d.s, d.wake, d.freed, d.ready, d.turns = s, make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}), make(chan turn)
	d.unready.Store(c.Disk > 0)
	d.dir = c.Directory
	d.keys, d.uris = map[uint64]struct{}{}, map[uint64]struct{}{}
	d.most.Store(c.Disk)
	if c.Disk <= 0 {
		close(d.ready)
	}
}

func (d *disk) setMost(n int64) {
	d.most.Store(n)
	d.look()
}

// look has the worker see whether there is too much.
func (d *disk) look() {
	if d.open.Load() {
		d.enqueue(0, func() { d.makeRoom() })
	}
}

func (d *disk) path(n name) string { return filepath.Join(d.dir, n.folder(), n.String()) }

// Disk says how the disk does.
func (s *Store) Disk() DiskState {
	d, c := &s.disk, &s.disk.counts
	out := DiskState{
		Most: d.most.Load(), Used: d.used.Load(), Files: d.files.Load(), Written: c.written.Load(), Dropped: c.dropped.Load(), Failed: c.failed.Load(), Broken: c.broken.Load(),
		Evicted: c.evicted.Load(), Hits: c.hits.Load(),
	}
	out.Reading = d.open.Load() && d.unready.Load()
	if why := d.why.Load(); why != nil {
		out.Problem = *why
	}
	return out
}

// Run keeps the disk's part, in the configuration's folder or the one below stateDir, until
// ctx ends.
func (s *Store) Run(ctx context.Context, log logrus.FieldLogger, stateDir string) {
	d := &s.disk
	if d.log = log; d.most.Load() <= 0 {
		return
	}
	if d.dir == "" {
		d.dir = filepath.Join(stateDir, "cache")
	}
	lock := d.acquire(ctx)
	if lock == nil {
		return
	}
	defer func() { _ = lock.Close() }() // unlocks; it may have been
	d.open.Store(true)
	defer d.open.Store(false)
	d.readAll(ctx, lock)
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		d.work()
		select {
		case <-ctx.Done():
			d.work()
			d.remember(lock)
			return
		case t := <-d.turns:
			t.done <- t.do(&lock)
		case <-tick.C:
			d.remember(lock)
			if d.why.Load() != nil && !d.given.Load() {
				d.probe()
			}
		case <-d.wake:
		}
	}
}

// work does what waits.
func (d *disk) work() {
	for {
		d.mu.Lock()
		list := d.queue
		d.queue = nil
		d.mu.Unlock()
		if len(list) == 0 {
			return
		}
		for _, j := range list {
			j.do()
			d.mu.Lock()
			d.queued -= j.bytes
			d.mu.Unlock()
			select {
			case d.freed <- struct{}{}:
			default:
			}
		}
	}
}

func (d *disk) mostQueued() int64 { return min(diskQueue, d.s.most.Load()/8) }

// enqueue has the worker do something. false: it is behind.
func (d *disk) enqueue(bytes int64, do func()) bool {
	d.mu.Lock()
	full := bytes > 0 && d.queued+bytes > d.mostQueued()
	if !full {
		d.queue, d.queued = append(d.queue, job{bytes, do}), d.queued+bytes
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
	return !full
}

// catchUp waits a moment for a worker that is behind: what a service sends at once is
// more than what waits may be.
func (d *disk) catchUp() {
	var t *time.Timer
	for {
		d.mu.Lock()
		full := d.queued+2*chunkSize > d.mostQueued()
		d.mu.Unlock()
		if !full {
			return
		}
		if t == nil {
			t = time.NewTimer(catchUpWait)
			defer t.Stop()
		}
		select {
		case <-d.freed:
		case <-t.C:
			return
		}
	}
}

// acquire takes the folder, for itself alone; nil: ctx ended before it could.
func (d *disk) acquire(ctx context.Context) *os.File {
	for {
		if !d.hurry.Load() {
			f, err := d.tryAcquire()
			if err == nil {
				d.works()
				return f
			}
			d.fails(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryEvery):
		}
	}
}

func (d *disk) tryAcquire() (*os.File, error) {
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(d.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by another sidegate", d.dir)
		}
		return nil, err
	}
	return f, nil
}

// fails says so, once.
func (d *disk) fails(err error) {
	d.counts.failed.Add(1)
	text := err.Error()
	if was := d.why.Swap(&text); was == nil {
		d.log.WithError(err).Error("answers can't be kept on disk; those in memory stay, and it is tried again")
	}
}

func (d *disk) works() {
	if d.why.Swap(nil) != nil {
		d.log.Info("answers are kept on disk again")
	}
}

// probe tries whether the disk can be written again.
func (d *disk) probe() {
	path := filepath.Join(d.dir, tempPrefix+"probe")
	err := os.WriteFile(path, make([]byte, block), 0o600)
	_ = os.Remove(path) // it may not be there
	if err != nil {
		d.fails(err)
		return
	}
	d.works()
}

// takes reports whether answers can go to the disk.
func (d *disk) takes() bool { return d.open.Load() && d.why.Load() == nil && d.most.Load() > 0 }

// unlink removes files that are out of the index. It returns when none of them, nor
// one that was on its way, has a name any more.
func (d *disk) unlink(list []name) {
	if len(list) == 0 {
		return
	}
	d.names.Lock()
	defer d.names.Unlock()
	if d.given.Load() {
		return
	}
	for _, n := range list {
		if err := os.Remove(d.path(n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			d.fails(err)
		}
	}
}

func (d *disk) unlinkLater(n name) { d.enqueue(0, func() { d.unlink([]name{n}) }) }

// settled waits until what is just getting its name has it, or doesn't get it.
func (d *disk) settled() {
	if d.open.Load() {
		d.names.Lock()
		defer d.names.Unlock() // waiting is all it is for
	}
}

// enter notes a file in the index. The shard's lock is held.
func (d *disk) enter(sh *shard, it *item, p place) {
	p.self = it.self
	if n := len(sh.spare); n > 0 {
		it.place, sh.spare = sh.spare[n-1], sh.spare[:n-1]
		sh.places[it.place] = p
	} else {
		it.place = uint32(len(sh.places))
		sh.places = append(sh.places, p)
	}
	d.files.Add(1)
	d.s.used.Add(placeSize)
	d.s.index.Add(placeSize)
}

// leave takes the file of an item out of the index. The shard's lock is held.
func (d *disk) leave(sh *shard, it *item) name {
	p := sh.places[it.place]
	sh.places[it.place] = place{}
	sh.spare = append(sh.spare, it.place)
	it.place = 0
	d.used.Add(-p.bytes)
	d.files.Add(-1)
	d.s.used.Add(-placeSize)
	d.s.index.Add(-placeSize)
	return p.name
}

// reserve makes room for n bytes, as the worker.
func (d *disk) reserve(n int64) error {
	d.used.Add(n)
	if d.makeRoom() {
		return nil
	}
	d.used.Add(-n)
	return errNoRoom
}

var errNoRoom = errors.New("it is larger than the disk's part of the cache")

func (d *disk) makeRoom() bool {
	for d.used.Load() > d.most.Load() || d.s.index.Load() > d.s.most.Load()/4 {
		if !d.evict() {
			return d.used.Load() <= d.most.Load()
		}
	}
	return true
}

// samples is how many answers are compared for one that goes.
const samples = 8

// evict lets go of the file, of some, that was asked for the longest time ago, and
// seldom.
func (d *disk) evict() bool {
	now := d.s.since(time.Now())
	var best *shard
	var at uint32
	var id uint64
	worth := int64(0)
	consider := func(sh *shard, i uint32) {
		p := &sh.places[i]
		if p.self == 0 {
			return
		}
		it := sh.slots[p.self]
		w := int64(0) // of one that nobody can use any more
		if !it.useless(now) {
			w = 1 + int64(sh.sketch.count(it.hash))*int64(time.Hour) + max(0, int64(time.Hour)*24*365-(now-p.used))
		}
		if best == nil || w < worth {
			best, at, id, worth = sh, i, p.id, w
		}
	}
	for n := range shards * samples {
		sh := &d.s.shards[rand.IntN(shards)]
		if n >= shards*samples/2 { // they are few
			sh = &d.s.shards[n%shards]
		} else if n >= samples && best != nil {
			break
		}
		sh.mu.Lock()
		if m := len(sh.places); m > 1 {
			if n < shards*samples/2 {
				consider(sh, uint32(1+rand.IntN(m-1)))
			} else {
				for i := range m {
					consider(sh, uint32(i))
				}
			}
		}
		sh.mu.Unlock()
	}
	if best == nil {
		return false
	}
	var names []name
	best.mu.Lock()
	if p := best.places[at]; p.self != 0 && p.id == id {
		if it := best.slots[p.self]; it.has(hasBody) {
			names = append(names, d.leave(best, it)) // it stays in memory
		} else {
			d.s.remove(best, it, &names)
		}
		d.counts.evicted.Add(1)
	}
	best.mu.Unlock()
	d.unlink(names)
	return true
}

// sweep removes the files of a URI of which the index doesn't know yet.
func (d *disk) sweep(uri string) {
	if !d.open.Load() {
		return
	}
	n := name{uri: uriName(uri)}
	prefix := n.String()[:17]
	d.names.Lock()
	defer d.names.Unlock()
	list, err := os.ReadDir(filepath.Join(d.dir, n.folder()))
	if err != nil {
		return // there are none
	}
	for _, f := range list {
		if strings.HasPrefix(f.Name(), prefix) {
			_ = os.Remove(filepath.Join(d.dir, n.folder(), f.Name())) // it may be gone
		}
	}
}

// note remembers, until all files have been looked at, what doesn't hold of them any more.
func (d *disk) note(set map[uint64]struct{}, what func() uint64) bool {
	if !d.unready.Load() {
		return false
	}
	d.scan.Lock()
	defer d.scan.Unlock()
	if len(set) >= mostUnready {
		d.tooMany = true // what isn't read by now isn't used
	} else {
		set[what()] = struct{}{}
	}
	return true
}

// await waits until the index knows all files. If the folder isn't ours yet, none of
// them will be used.
func (d *disk) await() {
	if d.open.Load() {
		<-d.ready
		return
	}
	d.scan.Lock()
	defer d.scan.Unlock()
	d.tooMany = d.unready.Load()
}
