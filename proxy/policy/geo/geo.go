// Package geo says which country or autonomous system an address belongs to, by
// an MMDB file (MaxMind DB), and which of these are on a list. What becomes of
// an address isn't its matter. It starts no goroutine.
//
// A look-up walks the file's tree to a record; what is decided about a record is
// remembered, so that it is decoded once, not for each request. There are a few
// hundred countries, and some ten thousand systems.
package geo

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/oschwald/maxminddb-golang/v2"

	"github.com/sidegate-proxy/sidegate/proxy/policy/listfile"
)

// Database is an MMDB file in memory. It never changes.
type Database struct{ reader *maxminddb.Reader }

// Parse reads an MMDB file.
func Parse(b []byte) (*Database, error) {
	r, err := maxminddb.OpenBytes(b)
	if err != nil {
		return nil, errors.New("isn't an MMDB file, or a broken one")
	}
	return &Database{r}, nil
}

// Files remembers databases, so that the routes that use one share it.
type Files struct{ listfile.Files[Database] }

// Read returns the database in a file. It is read into memory: one that is
// mapped, and written over in its place, would end the process.
func (f *Files) Read(path string) (*Database, error) {
	if f == nil {
		return (*listfile.Files[Database])(nil).Read(path, Parse)
	}
	return f.Files.Read(path, Parse)
}

// List is a list of countries or of systems, in a database.
type List struct {
	database *Database
	decide   func(maxminddb.Result) bool

	mu      sync.RWMutex // guards what follows
	decided map[uintptr]bool
}

// Countries are those with the ISO 3166-1 codes. It is where an address is, or
// else where it is registered.
func Countries(d *Database, codes []string) (*List, error) {
	want := map[string]bool{}
	for _, c := range codes {
		if len(c) != 2 || c[0] < 'A' || c[0] > 'Z' || c[1] < 'A' || c[1] > 'Z' {
			return nil, fmt.Errorf("%q isn't a country's code, such as \"DE\"", c)
		}
		want[c] = true
	}
	return &List{database: d, decided: map[uintptr]bool{}, decide: func(r maxminddb.Result) bool {
		var code string
		if r.DecodePath(&code, "country", "iso_code") != nil {
			return false
		}
		if code == "" && r.DecodePath(&code, "registered_country", "iso_code") != nil {
			return false
		}
		return want[code]
	}}, nil
}

// Systems are the autonomous systems with these numbers.
func Systems(d *Database, numbers []int) (*List, error) {
	want := map[uint32]bool{}
	for _, n := range numbers {
		if n < 1 || int64(n) > 1<<32-1 {
			return nil, fmt.Errorf("%d isn't the number of an autonomous system", n)
		}
		want[uint32(n)] = true
	}
	return &List{database: d, decided: map[uintptr]bool{}, decide: func(r maxminddb.Result) bool {
		var n uint32
		return r.DecodePath(&n, "autonomous_system_number") == nil && want[n]
	}}, nil
}

// Has reports whether an address belongs to one of them. One that the database
// doesn't know belongs to none. It allocates nothing for a record that came
// before.
func (l *List) Has(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	r := l.database.reader.Lookup(a.Unmap().WithZone(""))
	if r.Err() != nil || !r.Found() {
		return false
	}
	l.mu.RLock()
	has, ok := l.decided[r.Offset()]
	l.mu.RUnlock()
	if ok {
		return has
	}
	has = l.decide(r)
	l.mu.Lock()
	l.decided[r.Offset()] = has
	l.mu.Unlock()
	return has
}
