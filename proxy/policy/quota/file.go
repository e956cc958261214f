package quota

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// file is a list of records, a line each, of which the last one of a client's
// period counts:
//
//	CHECKSUM START PERIOD USED LIMIT OWED "QUOTA" "CLIENT"
//	CHECKSUM heir DRAIN
//
// Records are appended; from time to time the file is replaced by one without
// the old ones. A line that was cut off by a crash was never waited for.
type file struct {
	path string
	f    *os.File
	size int64 // what is in it
	live int64 // what was in it after it was replaced

	heirOf []string // drains (yield.go) whose counts are in the records
}

const heir = "heir "

// appendHeir says that the counts of a drain are in the file.
func appendHeir(b []byte, name string) []byte {
	line := heir + name
	return append(append(fmt.Appendf(b, "%08x ", crc32.ChecksumIEEE([]byte(line))), line...), '\n')
}

func parseHeir(line string) (name string, ok bool) {
	sum, line, _ := strings.Cut(line, " ")
	if n, err := strconv.ParseUint(sum, 16, 32); err != nil || uint32(n) != crc32.ChecksumIEEE([]byte(line)) {
		return "", false
	}
	return strings.CutPrefix(line, heir)
}

func appendRecord(b []byte, r *record) []byte {
	line := strconv.AppendInt(nil, r.start, 10)
	line = append(append(append(line, ' '), r.period.String()...), ' ')
	line = append(strconv.AppendInt(line, r.used, 10), ' ')
	line = append(strconv.AppendInt(line, r.limit, 10), ' ')
	line = append(strconv.AppendInt(line, r.owed, 10), ' ')
	line = append(strconv.AppendQuoteToASCII(line, r.scope), ' ')
	line = strconv.AppendQuoteToASCII(line, r.client)
	return append(append(fmt.Appendf(b, "%08x ", crc32.ChecksumIEEE(line)), line...), '\n')
}

func parseRecord(line string) (r record, ok bool) {
	sum, line, _ := strings.Cut(line, " ")
	if n, err := strconv.ParseUint(sum, 16, 32); err != nil || uint32(n) != crc32.ChecksumIEEE([]byte(line)) {
		return r, false
	}
	f := strings.SplitN(line, " ", 6)
	if len(f) != 6 {
		return r, false
	}
	var errs [4]error
	r.start, errs[0] = strconv.ParseInt(f[0], 10, 64)
	r.used, errs[1] = strconv.ParseInt(f[2], 10, 64)
	r.limit, errs[2] = strconv.ParseInt(f[3], 10, 64)
	r.owed, errs[3] = strconv.ParseInt(f[4], 10, 64)
	for _, p := range []exchange.Period{exchange.Hour, exchange.Day, exchange.Month} {
		if p.String() == f[1] {
			r.period = p
		}
	}
	quoted, err := strconv.QuotedPrefix(f[5])
	if err != nil || r.period == 0 || errors.Join(errs[:]...) != nil || r.start <= 0 {
		return r, false
	}
	client := strings.TrimPrefix(f[5][len(quoted):], " ")
	r.scope, err = strconv.Unquote(quoted)
	if err != nil {
		return r, false
	}
	r.client, err = strconv.Unquote(client)
	return r, err == nil
}

// open reads what is there. Damaged lines are left out; a last one that was cut
// off is none.
func (f *file) open(path string) (list []record, bad int, err error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	text := string(b)
	whole := strings.LastIndexByte(text, '\n') + 1
	for line := range strings.Lines(text[:whole]) {
		if name, ok := parseHeir(strings.TrimSuffix(line, "\n")); ok {
			f.heirOf = append(f.heirOf, name)
			continue
		}
		r, ok := parseRecord(strings.TrimSuffix(line, "\n"))
		if !ok {
			bad++
			continue
		}
		list = append(list, r)
	}
	f.path = path
	// The first write replaces it: nothing may be appended to a line that was
	// cut off.
	f.size, f.live = shrinkAt+1, 0
	return list, bad, nil
}

// append adds records and waits for the disk.
func (f *file) append(records []record) error {
	if f.f == nil {
		return f.replace(records)
	}
	var b []byte
	for i := range records {
		b = appendRecord(b, &records[i])
	}
	n, err := f.f.Write(b)
	f.size += int64(n)
	if err != nil {
		return err
	}
	return f.f.Sync()
}

// replace writes a new file with these records alone.
func (f *file) replace(records []record) error {
	if f.path == "" {
		return nil
	}
	var b []byte
	for _, name := range f.heirOf {
		b = appendHeir(b, name)
	}
	for i := range records {
		b = appendRecord(b, &records[i])
	}
	temp := f.path + ".new"
	next, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err = next.Write(b); err == nil {
		err = next.Sync()
	}
	if err == nil {
		err = os.Rename(temp, f.path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(f.path))
	}
	if err != nil {
		_ = next.Close() // it isn't used
		return err
	}
	if f.f != nil {
		_ = f.f.Close() // everything in it is in the new one
	}
	f.f, f.size, f.live = next, int64(len(b)), int64(len(b))
	return nil
}

// syncFolder makes a rename last.
func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *file) close() error {
	if f.f == nil {
		return nil
	}
	err := f.f.Close()
	f.f = nil
	return err
}
