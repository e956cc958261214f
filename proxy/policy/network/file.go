package network

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/listfile"
)

// maxMistakes bounds the lines that one error names.
const maxMistakes = 5

// Parse reads a list of networks and addresses, one on a line; what follows it
// after a space, and lines that start with # or ;, is left out.
func Parse(text []byte) ([]netip.Prefix, error) {
	var list []netip.Prefix
	var errs error
	mistakes := 0
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		word := strings.TrimSpace(lines.Text())
		if i := strings.IndexAny(word, " \t#;,"); i >= 0 {
			word = word[:i]
		}
		if word == "" {
			continue
		}
		p, err := parse(word)
		if err != nil {
			if mistakes++; mistakes <= maxMistakes {
				errs = errors.Join(errs, fmt.Errorf("line %d: %w", n, err))
			}
			continue
		}
		list = append(list, p)
	}
	if err := lines.Err(); err != nil {
		errs = errors.Join(errs, err)
	}
	return list, errs
}

func parse(word string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(word)
	if err != nil {
		return p, fmt.Errorf("%.60q is neither a network nor an address", word)
	}
	return p.Masked(), nil
}

// Files remembers the sets of files, so that the routes that use one share it.
type Files struct{ listfile.Files[Set] }

// Read returns the set that a file lists.
func (f *Files) Read(path string) (*Set, error) {
	if f == nil {
		return (*listfile.Files[Set])(nil).Read(path, parseSet)
	}
	return f.Files.Read(path, parseSet)
}

func parseSet(text []byte) (*Set, error) {
	list, err := Parse(text)
	if err != nil {
		return nil, err
	}
	return New(list), nil
}
