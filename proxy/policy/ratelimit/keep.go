package ratelimit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"time"
)

// The buckets that aren't full are kept over a restart and for a process that takes
// over, which would else give everybody a new burst: a file of
//
//	magic | time, in nanoseconds since 1970 | key, nanoseconds until it is full | … | CRC-32
//
// It is no journal: a crash begins with full buckets.

const (
	keptMagic = "sgrates1"
	keptHead  = len(keptMagic) + 8
	keptSize  = 16
	// mostKept bounds the file, to 16 MiB. Buckets beyond are full afterwards.
	mostKept = 1 << 20
)

// Seed sets the secret by which clients are found, of at least 16 bytes: what Keep
// writes is of use to a store with the same one. It comes before the first limit.
func (s *Store) Seed(secret []byte) {
	if len(secret) >= 16 {
		s.seed = seedOf(secret)
	}
}

// Keep writes the buckets that aren't full to a file, all or nothing.
func (s *Store) Keep(path string, now time.Time) error {
	if s.sets == nil {
		return nil
	}
	b := append(make([]byte, 0, 64<<10), keptMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixNano()))
	at := s.now()
	for i := range s.sets {
		l := &s.locks[i&(len(s.locks)-1)]
		l.Lock()
		for n, key := range s.sets[i].keys {
			if left := s.sets[i].full[n] - at; key != 0 && left > 0 && len(b) < keptHead+mostKept*keptSize {
				b = binary.BigEndian.AppendUint64(b, key)
				b = binary.BigEndian.AppendUint64(b, uint64(left))
			}
		}
		l.Unlock()
	}
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	temp := path + ".new"
	err := os.WriteFile(temp, b, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp) // it takes room that there may be none of
	}
	return err
}

// Load takes over the buckets of a file, and removes it. One that isn't there has none.
func (s *Store) Load(path string, now time.Time) error {
	if s.sets == nil {
		return nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	end := len(b) - 4
	if end < keptHead || !bytes.HasPrefix(b, []byte(keptMagic)) || (end-keptHead)%keptSize != 0 || crc32.ChecksumIEEE(b[:end]) != binary.BigEndian.Uint32(b[end:]) {
		return fmt.Errorf("%s isn't as it was written: rate limits begin anew", path)
	}
	gone := max(0, moment(now.UnixNano()-int64(binary.BigEndian.Uint64(b[len(keptMagic):]))))
	at := s.now()
	for b = b[keptHead:end]; len(b) > 0; b = b[keptSize:] {
		key, left := binary.BigEndian.Uint64(b), moment(binary.BigEndian.Uint64(b[8:]))-gone
		if left <= 0 || key == 0 {
			continue
		}
		l := &s.locks[key&uint64(len(s.locks)-1)]
		l.Lock()
		if full := at + left; full > s.full(key) {
			s.put(key, full, at)
		}
		l.Unlock()
	}
	return nil
}
