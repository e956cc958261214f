package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
	"github.com/sidegate-proxy/sidegate/proxy/usage"
)

const (
	magic  = "sgus1\n"
	suffix = ".batch"
	// joinTo is how large a batch gets by being joined with what follows.
	joinTo = 1 << 20
	lock   = "lock"
)

// id says which batch it is: of which run of a gateway, and the how manyth.
// Those of a run are delivered in order, so that the last one tells of all.
type id struct {
	run string
	seq int64
}

func (i id) file() string { return fmt.Sprintf("%s-%016d%s", i.run, i.seq, suffix) }

// spool is a folder of batches that the database hasn't got yet. Each is a file,
// which is on the disk before it counts as there.
type spool struct {
	dir   string
	max   int64 // bytes
	lock  *os.File
	list  []id // in order
	sizes map[id]int64
	bytes int64
	run   string
	seq   int64
	// tail are the rows of the last batch, as long as more can join them: nobody
	// has tried to deliver it.
	tail []usage.Row
}

// openSpool takes a folder over, with what is in it.
func openSpool(dir string, most int64, run string) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: another gateway uses it: %w", dir, err), f.Close())
	}
	s := &spool{dir: dir, max: most, lock: f, run: run, sizes: map[id]int64{}}
	entries, err := os.ReadDir(dir) // sorted
	for _, e := range entries {
		if i, ok := parseFile(e.Name()); ok && err == nil {
			info, failed := e.Info()
			if err = failed; err == nil {
				s.list, s.sizes[i] = append(s.list, i), info.Size()
				s.bytes += info.Size()
			}
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func parseFile(name string) (id, bool) {
	name, ok := strings.CutSuffix(name, suffix)
	run, seq, ok2 := strings.Cut(name, "-")
	n, err := strconv.ParseInt(seq, 10, 64)
	return id{run, n}, ok && ok2 && err == nil
}

// drained is the spool of a process that has yielded, in its estate.
const drained = "spool"

// inherit takes over the batches of processes that have yielded and ended. They have
// runs of their own.
func (s *spool) inherit(log logrus.FieldLogger) error {
	names, err := estate.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		own, err := estate.Take(s.dir, name)
		if err != nil {
			return err
		}
		if own == nil {
			continue // it works yet
		}
		n, err := s.move(filepath.Join(own.Dir(), drained))
		if err != nil {
			return errors.Join(err, own.Close())
		}
		if n > 0 {
			log.WithField("batches", n).Info("batches of usage of the process before are taken over")
		}
		if err := own.Remove(); err != nil {
			return err
		}
	}
	return nil
}

// move takes batches out of a folder.
func (s *spool) move(from string) (n int, err error) {
	entries, err := os.ReadDir(from) // sorted
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	for _, e := range entries {
		i, ok := parseFile(e.Name())
		if !ok || err != nil {
			continue
		}
		var info os.FileInfo
		if info, err = e.Info(); err == nil {
			err = os.Rename(filepath.Join(from, e.Name()), filepath.Join(s.dir, e.Name()))
		}
		if err == nil {
			s.list, s.sizes[i] = append(s.list, i), info.Size()
			s.bytes += info.Size()
			n++
		}
	}
	return n, errors.Join(err, s.sync())
}

func (s *spool) close() error { return s.lock.Close() }

// add puts rows on the disk, in a batch of their own or with the last one.
func (s *spool) add(rows []usage.Row) error {
	i, join := id{s.run, s.seq + 1}, s.tail != nil && s.sizes[id{s.run, s.seq}] < joinTo
	if join {
		i.seq--
		rows = usage.Fold(append(slices.Clone(s.tail), rows...), usage.Minute)
	}
	b := encode(rows)
	if grown := int64(len(b)) - s.sizes[i]; s.bytes+grown > s.max {
		return fmt.Errorf("%s: the batches that wait for the database have reached usage.spool", s.dir)
	}
	if err := s.write(i.file(), b); err != nil {
		return err
	}
	if !join {
		s.seq++
		s.list = append(s.list, i)
	}
	s.bytes += int64(len(b)) - s.sizes[i]
	s.sizes[i], s.tail = int64(len(b)), rows
	return nil
}

// write makes or replaces a file, all of it or not at all.
func (s *spool) write(name string, b []byte) error {
	path := filepath.Join(s.dir, name)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		_ = os.Remove(path + ".new") // room for the next try
		return err
	}
	return s.sync()
}

// sync makes what happened to the folder last.
func (s *spool) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read returns the rows of a batch. From here on it stays as it is.
func (s *spool) read(i id) ([]usage.Row, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, i.file()))
	if err != nil {
		return nil, err
	}
	return decode(b)
}

// fix lets nothing more join a batch: it is about to be delivered.
func (s *spool) fix(i id) {
	if i == (id{s.run, s.seq}) {
		s.tail = nil
	}
}

// done forgets the first batch: the database has it.
func (s *spool) done() error {
	i := s.list[0]
	if err := os.Remove(filepath.Join(s.dir, i.file())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.drop()
	return nil
}

// setAside keeps the first batch out of the way, for a person to look at.
func (s *spool) setAside() error {
	path := filepath.Join(s.dir, s.list[0].file())
	if err := os.Rename(path, path+".bad"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.drop()
	return nil
}

func (s *spool) drop() {
	i := s.list[0]
	s.fix(i)
	s.bytes -= s.sizes[i]
	delete(s.sizes, i)
	s.list = s.list[1:]
}

// encode writes rows: after a line that says what it is, their sum (CRC-32C), and
// for each row its numbers as varints and its texts and histogram with their
// lengths in front.
func encode(rows []usage.Row) []byte {
	b := append([]byte(magic), 0, 0, 0, 0)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(rows)))
	var latency []byte
	for i := range rows {
		r := &rows[i]
		b = binary.AppendVarint(b, r.Start)
		text(r.Consumer)
		text(r.Route)
		text(r.Service)
		b = append(b, r.Class)
		for _, n := range counts(r) {
			b = binary.AppendVarint(b, *n)
		}
		latency = r.Latency.Append(latency[:0])
		text(string(latency))
	}
	binary.BigEndian.PutUint32(b[len(magic):], sum(b[len(magic)+4:]))
	return b
}

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// counts are a row's numbers, in the order of the columns.
func counts(r *usage.Row) []*int64 {
	return []*int64{&r.Requests, &r.BytesIn, &r.BytesOut, &r.Errors, &r.Limited, &r.Hits, &r.Charged}
}

var errDamaged = errors.New("the batch is damaged")

// reader takes an encoding apart.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() { r.b, r.err = nil, errDamaged }

func (r *reader) number() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) length() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > uint64(len(r.b)-n) {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() string {
	n := r.length()
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func decode(b []byte) ([]usage.Row, error) {
	if len(b) < len(magic)+4 || string(b[:len(magic)]) != magic || binary.BigEndian.Uint32(b[len(magic):]) != sum(b[len(magic)+4:]) {
		return nil, errDamaged
	}
	in := reader{b: b[len(magic)+4:]}
	var rows []usage.Row
	for n := in.length(); n > 0 && in.err == nil; n-- { // each takes a byte, at least
		r := usage.Row{Start: in.number()}
		r.Consumer, r.Route, r.Service = in.text(), in.text(), in.text()
		if len(in.b) == 0 {
			return nil, errDamaged
		}
		r.Class, in.b = in.b[0], in.b[1:]
		for _, c := range counts(&r) {
			*c = in.number()
		}
		if err := r.Latency.Decode([]byte(in.text())); err != nil {
			return nil, errDamaged
		}
		rows = append(rows, r)
	}
	return rows, in.err
}
