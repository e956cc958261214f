package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// spool is a file that is being written, as the body comes.
type spool struct {
	d       *disk
	uri     string
	id      uint64
	f       *os.File     // set before written is above 0
	written atomic.Int64 // bytes of the body that are in the file
	failed  atomic.Bool  // nothing more is written
	holds   atomic.Int32 // who reads from f, or writes

	// The worker's.
	size     int64 // of the file
	reserved int64 // bytes of the disk
}

// newSpool begins a file; its worker makes it when the first chunk comes.
func (s *Store) newSpool(uri string, id uint64) *spool {
	p := &spool{d: &s.disk, uri: uri, id: id}
	p.holds.Store(1) // the worker
	return p
}

func (p *spool) temp() string {
	return filepath.Join(p.d.dir, tempPrefix+strconv.FormatUint(p.id, 16))
}

// write has a chunk written. Its memory has room for the checksum behind it.
func (p *spool) write(n int64, b []byte) {
	if p.failed.Load() {
		return
	}
	if !p.d.enqueue(int64(len(b)), func() { p.put(n, b) }) {
		p.d.counts.dropped.Add(1)
		p.failed.Store(true)
	}
}

func (p *spool) put(n int64, b []byte) {
	if p.failed.Load() {
		return
	}
	if err := p.putChunk(n, b); err != nil {
		p.fail(err)
		return
	}
	p.written.Add(int64(len(b)))
}

func (p *spool) putChunk(n int64, b []byte) error {
	if p.f == nil {
		if err := p.create(); err != nil {
			return err
		}
	}
	s := sum(p.id, n, b)
	return p.append(append(b, byte(s>>24), byte(s>>16), byte(s>>8), byte(s)))
}

func (p *spool) create() (err error) {
	if p.d.given.Load() {
		return errGiven
	}
	if p.f, err = os.OpenFile(p.temp(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	return p.append(appendStart(nil, p.id))
}

func (p *spool) append(b []byte) error {
	if need := onBlocks(p.size + int64(len(b))); need > p.reserved {
		if err := p.d.reserve(need - p.reserved); err != nil {
			return err
		}
		p.reserved = need
	}
	n, err := p.f.Write(b)
	p.size += int64(n)
	return err
}

func (p *spool) fail(err error) {
	p.failed.Store(true)
	if !errors.Is(err, errNoRoom) && !errors.Is(err, errGiven) {
		p.d.fails(err)
	}
}

// abandon takes the name of the file that isn't to be.
func (p *spool) abandon() {
	p.failed.Store(true)
	p.d.enqueue(0, p.discard)
}

func (p *spool) discard() {
	p.failed.Store(true)
	_ = os.Remove(p.temp()) // it may never have been made
	p.d.used.Add(-p.reserved)
	p.reserved = 0
	p.release()
}

// release closes the file when the last one has done with it.
func (p *spool) release() {
	if p.holds.Add(-1) == 0 && p.f != nil {
		_ = p.f.Close() // errors of writing came from Write
	}
}

// finish has the file of e, whose body has been written, get its header and its name.
// It waits for it a bounded time.
func (d *disk) finish(e *entry, it *item, self uint32) bool {
	p, head, done := e.spool, e.fields(), make(chan bool, 1)
	d.enqueue(0, func() { done <- d.publish(p, it, self, head) })
	t := time.NewTimer(finishWait)
	defer t.Stop()
	select {
	case ok := <-done:
		return ok
	case <-t.C:
		return false // or later
	}
}

// overflow has an answer written that memory has no more room for; its place in the
// index is self.
func (d *disk) overflow(it *item, self uint32) bool {
	if !d.takes() {
		return false
	}
	p := d.s.newSpool(it.uri(), it.id)
	ok := d.enqueue(int64(it.size), func() {
		body, room := it.body(), make([]byte, 0, min(len(it.body()), chunkSize)+sumSize)
		if p.create() != nil {
			p.failed.Store(true)
		}
		for n := int64(0); n*chunkSize < it.length(); n++ {
			p.put(n, append(room[:0], body[n*chunkSize:min(it.length(), (n+1)*chunkSize)]...))
		}
		head := &exchange.Head{}
		head.Unpack(it.head())
		d.publish(p, it, self, head)
	})
	if !ok {
		d.counts.dropped.Add(1)
	}
	return ok
}

// publish gives a complete file its header and its name, if its answer still stands.
// It is the worker's.
func (d *disk) publish(p *spool, it *item, self uint32, head *exchange.Head) bool {
	at := headerAt(it.length())
	if p.f == nil && !p.failed.Load() { // it has no body
		if err := p.create(); err != nil {
			p.fail(err)
		}
	}
	h := d.s.shard(d.s.hash(it.uri()))
	n := name{uriName(it.uri()), it.id}
	b := appendHeader(nil, it, d.wall(it.born()), head)
	if !p.failed.Load() && p.size == at {
		if err := p.append(b); err != nil {
			p.fail(err)
		}
	} else {
		p.failed.Store(true)
	}
	d.names.Lock()
	ok := !p.failed.Load() && !d.given.Load() && d.stands(h, self, it.id)
	if ok {
		err := os.Rename(p.temp(), d.path(n))
		if errors.Is(err, os.ErrNotExist) {
			if err = os.Mkdir(filepath.Dir(d.path(n)), 0o700); err == nil || errors.Is(err, os.ErrExist) {
				err = os.Rename(p.temp(), d.path(n))
			}
		}
		if ok = err == nil; !ok {
			p.fail(err)
		}
	}
	if ok {
		ok = d.arrive(h, self, place{name: n, bytes: p.reserved, at: at, head: uint32(len(b) - trailerSize), used: d.s.since(time.Now())}, it.id)
		if ok {
			p.reserved = 0 // it is the place's
		} else {
			_ = os.Remove(d.path(n)) // it was forgotten meanwhile
		}
	}
	d.names.Unlock()
	if !ok {
		d.gaveUp(h, self, it.id)
		p.discard()
		return false
	}
	d.counts.written.Add(1)
	p.release()
	d.makeRoom() // the index has grown
	return true
}

// wall is a time since the epoch by the system's clock.
func (d *disk) wall(since int64) time.Time {
	return time.Now().Round(0).Add(-time.Duration(d.s.since(time.Now()) - since))
}

// stands reports whether an answer is still on its way to the disk.
func (d *disk) stands(sh *shard, self uint32, id uint64) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	it := sh.slots[self]
	return it != nil && it.id == id && it.is(isLeaving)
}

func (d *disk) arrive(sh *shard, self uint32, p place, id uint64) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	it := sh.slots[self]
	if it == nil || it.id != id || !it.is(isLeaving) {
		return false
	}
	it.state &^= isLeaving
	d.enter(sh, it, p)
	return true
}

// gaveUp takes an answer out of the index that was on its way.
func (d *disk) gaveUp(sh *shard, self uint32, id uint64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if it := sh.slots[self]; it != nil && it.id == id && it.is(isLeaving) {
		d.s.remove(sh, it, nil)
	}
}

// refresh has the new fields of an answer go into its file.
func (d *disk) refresh(it *item) {
	d.enqueue(0, func() { d.rewrite(it) })
}

// rewrite appends a header to the file of an answer as it is now. If that fails, the
// file goes: what is in it doesn't hold.
func (d *disk) rewrite(it *item) {
	sh := d.s.shard(d.s.hash(it.uri()))
	d.names.Lock()
	p, now, ok := d.outdated(sh, it)
	if !ok || d.given.Load() {
		d.names.Unlock()
		return
	}
	at, n, err := d.appendTo(p, now)
	d.names.Unlock()
	var names []name
	sh.mu.Lock()
	if now := sh.find(it.hash, text(it.key())); now != nil && now.id == p.id && now.place != 0 {
		switch q := &sh.places[now.place]; {
		case err == nil:
			more := onBlocks(at+int64(n)+trailerSize) - q.bytes
			q.at, q.head, q.old, q.bytes = at, n, false, q.bytes+more
			d.used.Add(more)
		case now.has(hasBody):
			names = append(names, d.leave(sh, now))
		default:
			d.s.remove(sh, now, &names)
		}
	}
	sh.mu.Unlock()
	d.unlink(names)
	if err != nil && !errors.Is(err, errNoRoom) && !errors.Is(err, errBroken) {
		d.fails(err)
	}
}

func (d *disk) outdated(sh *shard, it *item) (place, *item, bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	now := sh.find(it.hash, text(it.key()))
	if now == nil || now.id != it.id || now.place == 0 || !sh.places[now.place].old {
		return place{}, nil, false
	}
	return sh.places[now.place], now, true
}

// appendTo appends a header of it to its file, and says where, and how long it is.
func (d *disk) appendTo(p place, it *item) (at int64, n uint32, err error) {
	f, err := os.OpenFile(d.path(p.name), os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close() // errors of writing come from WriteAt
	head := &exchange.Head{}
	if it.headLen > 0 {
		head.Unpack(it.head())
	} else {
		h, err := readHeader(f, p.id, p.at, p.head)
		if err != nil {
			return 0, 0, err
		}
		head = h.head
	}
	b := appendHeader(nil, it, d.wall(it.born()), head)
	at = p.at + int64(p.head) + trailerSize
	if at+int64(len(b)) > headerAt(it.length())+mostAppended || d.used.Load()+onBlocks(int64(len(b))) > d.most.Load() {
		return 0, 0, errNoRoom
	}
	_, err = f.WriteAt(b, at)
	return at, uint32(len(b) - trailerSize), err
}
