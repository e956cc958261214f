package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// A file is
//
//	magic, id | chunks of the body, each with its checksum | header | trailer
//
// with the length and checksum of the header in the trailer, at the end. When a
// 304 brings new fields, another header and trailer are appended; the last ones
// count. A checksum covers id, number and content of a chunk, so that none can
// stand for another. Files get their name when they are complete; what a crash
// leaves behind has none, or a trailer that isn't right. Nothing is synced: a
// checksum finds what didn't reach the disk.
const (
	fileMagic    = "sidegat1"
	trailerMagic = "sidegend"
	fileStart    = 16
	trailerSize  = 24
	chunkSize    = 32 << 10
	sumSize      = 4
	mostHeader   = 1 << 20
	mostAppended = 256 << 10 // headers of one file
)

var errBroken = errors.New("it isn't as it was written")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once, by crc32

// sum is the checksum of chunk n of a body.
func sum(id uint64, n int64, b []byte) uint32 {
	var head [16]byte
	binary.BigEndian.PutUint64(head[:], id)
	binary.BigEndian.PutUint64(head[8:], uint64(n))
	return crc32.Update(crc32.Update(0, castagnoli(), head[:]), castagnoli(), b)
}

// headerNumber is the number under which a header is summed.
const headerNumber = -1

// headerAt is where the first header is, behind a body of that length.
func headerAt(length int64) int64 {
	chunks := (length + chunkSize - 1) / chunkSize
	return fileStart + length + chunks*sumSize
}

func onBlocks(n int64) int64 { return (n + block - 1) / block * block }

func appendStart(b []byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, fileMagic...), id)
}

// appendHeader appends header and trailer of an item, whose born is a time of the
// wall; head has its fields.
func appendHeader(b []byte, it *item, born time.Time, head *exchange.Head) []byte {
	from, shelf := len(b), it.shelf()
	b = binary.BigEndian.AppendUint64(b, it.id)
	b = binary.BigEndian.AppendUint64(b, uint64(born.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, uint64(it.length()))
	b = binary.BigEndian.AppendUint32(b, uint32(inSeconds(shelf.Lifetime)))
	b = binary.BigEndian.AppendUint32(b, uint32(it.whileRevalidate))
	b = binary.BigEndian.AppendUint32(b, uint32(it.ifError))
	b = binary.BigEndian.AppendUint32(b, it.date)
	b = binary.BigEndian.AppendUint16(b, it.status)
	b = append(b, it.flags&(noCache|must|immutable|guessed|recoded), 0)
	b = binary.BigEndian.AppendUint16(b, it.keyLen)
	b = binary.BigEndian.AppendUint16(b, it.uriLen)
	b = binary.BigEndian.AppendUint16(b, it.tagsLen)
	b = binary.BigEndian.AppendUint16(b, uint16(head.Len()))
	b = append(append(b, it.key()...), it.tags()...)
	for i := range head.Len() {
		name, value := head.Field(i)
		b = binary.BigEndian.AppendUint16(b, uint16(len(name)))
		b = binary.BigEndian.AppendUint32(b, uint32(len(value)))
		b = append(append(b, name...), value...)
	}
	s := sum(it.id, headerNumber, b[from:])
	b = binary.BigEndian.AppendUint32(b, uint32(len(b)-from))
	b = binary.BigEndian.AppendUint32(b, s)
	b = binary.BigEndian.AppendUint64(b, it.id)
	return append(b, trailerMagic...)
}

const headerFixed = 8 + 8 + 8 + 4*4 + 2 + 2 + 4*2

// header is what a file says of its answer.
type header struct {
	item *item // without body
	born time.Time
	head *exchange.Head
}

// parseHeader reads a header, whose checksum has been looked at.
func parseHeader(b []byte) (h header, err error) {
	if len(b) < headerFixed {
		return h, errBroken
	}
	u16 := func(at int) int { return int(binary.BigEndian.Uint16(b[at:])) }
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	keyLen, uriLen, tagsLen, fields := u16(44), u16(46), u16(48), u16(50)
	rest := b[headerFixed:]
	if keyLen+tagsLen > len(rest) || uriLen > keyLen {
		return h, errBroken
	}
	key, tags := rest[:keyLen], rest[keyLen:keyLen+tagsLen]
	rest = rest[keyLen+tagsLen:]
	h.head = &exchange.Head{}
	for range fields {
		if len(rest) < 6 {
			return h, errBroken
		}
		n, v := int(binary.BigEndian.Uint16(rest)), int64(binary.BigEndian.Uint32(rest[2:]))
		if rest = rest[6:]; int64(n)+v > int64(len(rest)) {
			return h, errBroken
		}
		h.head.Append(string(rest[:n]), string(rest[n:n+int(v)]))
		rest = rest[n+int(v):]
	}
	it := newItem(keyLen + tagsLen)
	it.id = binary.BigEndian.Uint64(b)
	length := int64(binary.BigEndian.Uint64(b[16:]))
	it.setLength(length)
	h.born = time.Unix(0, int64(binary.BigEndian.Uint64(b[8:])))
	it.lifetime, it.whileRevalidate, it.ifError, it.date = int32(u32(24)), int32(u32(28)), int32(u32(32)), u32(36)
	it.status, it.flags = uint16(u16(40)), b[42]&(noCache|must|immutable|guessed|recoded)
	it.keyLen, it.uriLen, it.tagsLen = uint16(keyLen), uint16(uriLen), uint16(tagsLen)
	copy(it.room(0, keyLen), key)
	copy(it.room(keyLen, tagsLen), tags)
	if len(rest) != 0 || length < 0 || length >= mostLength {
		return h, errBroken
	}
	h.item = it
	return h, nil
}

// readHeader reads the header at that place of a file.
func readHeader(f io.ReaderAt, id uint64, at int64, n uint32) (header, error) {
	if n > mostHeader {
		return header{}, errBroken
	}
	b := make([]byte, int(n)+trailerSize)
	if _, err := f.ReadAt(b, at); err != nil {
		return header{}, err
	}
	return checkHeader(b, id)
}

// checkHeader reads a header with its trailer.
func checkHeader(b []byte, id uint64) (header, error) {
	n := len(b) - trailerSize
	t := b[n:]
	if string(t[16:]) != trailerMagic || binary.BigEndian.Uint32(t) != uint32(n) || binary.BigEndian.Uint64(t[8:]) != id || binary.BigEndian.Uint32(t[4:]) != sum(id, headerNumber, b[:n]) {
		return header{}, errBroken
	}
	h, err := parseHeader(b[:n])
	if err == nil && h.item.id != id {
		err = errBroken
	}
	return h, err
}

// file is an open file with the body of an answer.
type file struct {
	d      *disk
	item   *item
	f      *os.File
	id     uint64
	length int64
	taken  bool   // by a body, which closes it
	first  []byte // the first chunk, if it has been looked at
}

// chunk reads chunk n into b, which has room for it and its checksum.
func (f *file) chunk(n int64, b []byte) ([]byte, error) {
	size := int(min(chunkSize, f.length-n*chunkSize))
	b = b[:size+sumSize]
	if _, err := f.f.ReadAt(b, fileStart+n*(chunkSize+sumSize)); err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	if binary.BigEndian.Uint32(b[size:]) != sum(f.id, n, b[:size]) {
		return nil, errBroken
	}
	return b[:size], nil
}

// prime looks at the first chunk, so that it is known to be right before anything is
// sent. false: it isn't, and the answer is forgotten.
func (f *file) prime() bool {
	if f.length == 0 || f.first != nil {
		return true
	}
	b, err := f.chunk(0, make([]byte, min(chunkSize, f.length)+sumSize))
	if err != nil {
		f.d.broke(f.item, err)
		return false
	}
	f.first = b
	return true
}

// release closes it unless a body has it.
func (e *entry) release() {
	if e.file != nil && !e.file.taken {
		e.file.taken = true
		_ = e.file.f.Close() // it was only read
	}
}

// again opens the file once more; nil: it is gone.
func (f *file) again() *file {
	o, err := os.Open(f.f.Name())
	if err != nil {
		return nil
	}
	return &file{d: f.d, item: f.item, f: o, id: f.id, length: f.length}
}

// body is the part from, to of the file, which it closes.
func (f *file) body(from, to int64) exchange.Body {
	f.taken = true
	b := &fileBody{file: f, at: from, to: to}
	if from < int64(len(f.first)) {
		b.rest = f.first[from:min(to, int64(len(f.first)))]
		b.at += int64(len(b.rest))
	}
	return b
}

// fileBody reads a body from its file, looking at each chunk before it gives any of
// it away.
type fileBody struct {
	file   *file
	at, to int64  // of the body: what hasn't been read
	rest   []byte // of the chunk that has been
	room   []byte
	close  sync.Once
}

var _ exchange.Body = (*fileBody)(nil)

// Read reads from the file.
func (b *fileBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if b.at >= b.to {
			return 0, io.EOF
		}
		if b.room == nil {
			b.room = make([]byte, chunkSize+sumSize)
		}
		n := b.at / chunkSize
		c, err := b.file.chunk(n, b.room)
		if errors.Is(err, os.ErrClosed) {
			return 0, io.ErrClosedPipe
		}
		if err != nil {
			b.file.d.broke(b.file.item, err)
			return 0, unreadable(err)
		}
		end := min(b.to, n*chunkSize+int64(len(c)))
		b.rest, b.at = c[b.at-n*chunkSize:end-n*chunkSize], end
	}
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) == 0 && b.at >= b.to {
		return n, io.EOF
	}
	return n, nil
}

// unreadable is the end of a body in a file that isn't right: neither the client's
// fault nor the service's.
func unreadable(err error) error {
	return exchange.NewFault(exchange.FromInternal, exchange.Internal, "the answer on disk: %w", err)
}

// Next gives what has been read.
func (b *fileBody) Next() ([]byte, bool) {
	rest := b.rest
	b.rest = nil
	return rest, b.at >= b.to
}

// Close closes the file.
func (b *fileBody) Close() error {
	b.close.Do(func() { _ = b.file.f.Close() }) // it was only read
	return nil
}

// broke forgets an answer whose file isn't right.
func (d *disk) broke(it *item, err error) {
	d.counts.broken.Add(1)
	d.log.WithError(err).WithField("url", it.url()).Warn("an answer on disk is broken, and is forgotten")
	d.s.drop(&entry{item: it, id: it.id})
}

// url is the URI without its query, which may be secret.
func (it *item) url() string {
	uri := []byte(it.uri())
	if i := bytes.IndexAny(uri, "?\x00"); i >= 0 {
		uri = uri[:i]
	}
	return string(uri)
}

// small is the largest body that is read at once, and comes back into memory.
const small = 64 << 10

// load has e show an answer whose body is on disk. false: it can't, and it is
// forgotten.
func (s *Store) load(e *entry, it *item, p place) bool {
	d := &s.disk
	f, err := os.Open(d.path(p.name))
	if err != nil {
		switch {
		case errors.Is(err, os.ErrNotExist) && !s.stands(&entry{item: it, id: it.id}):
			return false // it has just been forgotten, or replaced
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
			return false // that says nothing of the file
		case d.given.Load(): // the process that it is by now has removed it
			s.drop(&entry{item: it, id: it.id})
			return false
		}
		d.broke(it, err)
		return false
	}
	s.show(e, it)
	e.file = &file{d: d, item: it, f: f, id: it.id, length: it.length()}
	if it.headLen == 0 {
		h, err := readHeader(f, it.id, p.at, p.head)
		if err == nil && !bytes.Equal(h.item.key(), it.key()) {
			err = errBroken
		}
		if err != nil {
			_ = f.Close() // it was only read
			d.broke(it, err)
			return false
		}
		e.head, e.ETag, e.LastModified = h.head, h.head.Get(exchange.ETag), h.head.Get(exchange.LastModified)
	}
	d.counts.hits.Add(1)
	if it.length() <= small && it.length() <= s.most.Load()/64 {
		return s.promote(e, it)
	}
	return true
}

// promote brings a small answer back into memory. Its file stays.
func (s *Store) promote(e *entry, it *item) bool {
	body := make([]byte, 0, it.length()+sumSize)
	for n := int64(0); n*chunkSize < it.length(); n++ {
		b, err := e.file.chunk(n, body[len(body):cap(body)])
		if err != nil {
			e.release()
			s.disk.broke(it, err)
			return false
		}
		body = body[:len(body)+len(b)]
	}
	e.release()
	e.file, e.body = nil, body
	full := s.newItem(e, it.key(), int(it.uriLen), true)
	if full == nil || !s.reserve(full.weight()) {
		return true
	}
	defer s.used.Add(-full.weight()) // swap counts it
	sh := s.shard(s.hash(it.uri()))
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.find(it.hash, text(it.key())) != it || it.is(isLeaving) {
		return true // another has done it, or there is another answer
	}
	full.lifetime = inSeconds(it.shelf().Lifetime)
	old := sh.places[it.place].old
	s.swap(sh, it, full)
	sh.places[full.place].old = old
	sh.push(full, inWindow)
	s.show(e, full)
	return true
}
