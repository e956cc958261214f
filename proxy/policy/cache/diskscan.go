package cache

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// readAll reads what the files of the folder are, while requests are served.
func (d *disk) readAll(ctx context.Context, lock *os.File) {
	defer d.readDone()
	r := &reading{d: d, now: time.Now()}
	r.early = d.early(lock, r.now)
	d.remember(lock)
	for n := range 257 {
		folder := d.dir
		if n > 0 {
			folder = filepath.Join(d.dir, fmt.Sprintf("%02x", n-1))
		}
		list, err := os.ReadDir(folder)
		if err != nil {
			if !os.IsNotExist(err) {
				r.err = err
			}
			continue
		}
		for i, f := range list {
			if ctx.Err() != nil || d.hurry.Load() {
				return
			}
			if n == 0 {
				if strings.HasPrefix(f.Name(), tempPrefix) {
					_ = os.Remove(filepath.Join(folder, f.Name())) // of a process that was killed
				}
				continue
			}
			if r.take(folder, f.Name()); i%64 == 0 {
				d.work()
			}
		}
		d.work()
	}
	if r.err != nil {
		d.fails(fmt.Errorf("some answers can't be read: %w", r.err))
	}
	if r.kept+r.lost+r.foreign > 0 {
		log := d.log.WithField("answers", r.kept)
		if r.lost > 0 {
			log = log.WithField("not_used", r.lost)
		}
		if r.foreign > 0 {
			log = log.WithField("foreign_files", r.foreign)
		}
		log.Info("the cache on disk has been read")
	}
}

func (d *disk) readDone() {
	d.scan.Lock()
	d.unready.Store(false)
	clear(d.keys)
	clear(d.uris)
	d.scan.Unlock()
	close(d.ready)
}

// reading is the look at all files after a start.
type reading struct {
	d                   *disk
	now                 time.Time
	early               time.Duration // that the clock is behind what it was
	kept, lost, foreign int
	err                 error
}

// remember notes the time, so that a clock that is behind after a restart is
// found out.
func (d *disk) remember(lock *os.File) {
	if d.given.Load() {
		return
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixNano()))
	_, _ = lock.WriteAt(b[:], 0) // on a full disk the last one stands
}

// early is how far the clock is behind what it was when the folder was last used:
// answers are older than it says by that much.
func (d *disk) early(lock *os.File, now time.Time) time.Duration {
	var b [8]byte
	if _, err := lock.ReadAt(b[:], 0); err != nil {
		return 0
	}
	return max(0, time.Unix(0, int64(binary.BigEndian.Uint64(b[:]))).Sub(now.Round(0)))
}

// take takes a file into the index, or removes it. Files with other names aren't ours.
func (r *reading) take(folder, file string) {
	var n name
	first, second, _ := strings.Cut(file, "-")
	var err1, err2 error
	n.uri, err1 = strconv.ParseUint(first, 16, 64)
	n.id, err2 = strconv.ParseUint(second, 16, 64)
	if err1 != nil || err2 != nil || n.String() != file || n.folder() != filepath.Base(folder) {
		r.foreign++
		return
	}
	p, h, err := r.d.look1(n)
	if err != nil {
		if !os.IsNotExist(err) {
			r.d.counts.broken.Add(1)
		}
		r.lost++
		r.d.unlink([]name{n})
		return
	}
	if !r.enter(p, h) {
		r.lost++
		r.d.unlink([]name{n})
		return
	}
	r.kept++
	r.d.makeRoom()
}

// look1 reads what a file says of itself.
func (d *disk) look1(n name) (p place, h header, err error) {
	f, err := os.Open(d.path(n))
	if err != nil {
		return p, h, err
	}
	defer f.Close() // it is only read
	info, err := f.Stat()
	if err != nil {
		return p, h, err
	}
	size := info.Size()
	b := make([]byte, min(size, 4<<10))
	if !info.Mode().IsRegular() || size < fileStart+headerFixed+trailerSize {
		return p, h, errBroken
	}
	if _, err := f.ReadAt(b, size-int64(len(b))); err != nil {
		return p, h, err
	}
	length := binary.BigEndian.Uint32(b[len(b)-trailerSize:])
	at := size - trailerSize - int64(length)
	if length > mostHeader || at < fileStart {
		return p, h, errBroken
	}
	if all := int(length) + trailerSize; all <= len(b) {
		h, err = checkHeader(b[len(b)-all:], n.id)
	} else {
		h, err = readHeader(f, n.id, at, length)
	}
	if err != nil {
		return p, h, err
	}
	if at < headerAt(h.item.length()) || uriName(h.item.uri()) != n.uri {
		return p, h, errBroken
	}
	return place{name: n, bytes: onBlocks(size), at: at, head: length}, h, nil
}

// enter puts an answer of a file into the index. It keeps its age. false: it doesn't
// hold any more, or there is a newer one.
func (r *reading) enter(p place, h header) bool {
	d, s, it := r.d, r.d.s, h.item
	uri := s.hash(it.uri())
	it.hash, it.uriHash = uint32(s.hash(text(it.key()))), uint32(uri)
	age := r.now.Round(0).Sub(h.born) + r.early
	if age < 0 { // made in the future: nobody knows how old it is
		age = max(0, it.shelf().Lifetime)
	}
	it.setBorn(s.since(r.now) - int64(age))
	p.used = it.born()
	if it.useless(s.since(r.now)) || onBlocks(p.bytes) > d.most.Load() {
		return false
	}
	d.scan.Lock()
	_, replaced := d.keys[s.hash(text(it.key()))^uri]
	_, forgotten := d.uris[p.uri]
	gone := replaced || forgotten || d.tooMany
	sh := s.shard(uri)
	var names []name
	if !gone {
		sh.mu.Lock()
		old := sh.find(it.hash, text(it.key()))
		if gone = old != nil && old.id > it.id; !gone {
			if old != nil {
				s.remove(sh, old, &names)
			}
			known := sh.knows(it.uriHash)
			sh.link(it)
			s.count(sh, it, 1)
			d.enter(sh, it, p)
			sh.vary(it, it.varies(), known)
		}
		sh.mu.Unlock()
	}
	d.scan.Unlock()
	d.unlink(names)
	if gone {
		return false
	}
	d.used.Add(p.bytes)
	return true
}

// varies is on which fields an answer depends, as its key says (see values).
func (it *item) varies() (list []string) {
	b := it.key()[it.uriLen:]
	if len(b) < 6 {
		return nil
	}
	n := int64(binary.BigEndian.Uint32(b[2:]))
	if b = b[6:]; n > int64(len(b)) {
		return nil
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(text(b[n:]), "\x00"), "\x00") {
		if field, _, _ := strings.Cut(part, "="); field != "" {
			list = append(list, strings.Clone(field))
		}
	}
	return list
}
