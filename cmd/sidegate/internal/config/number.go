package config

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// numberCompare compares a value with a bound.
type numberCompare func(*big.Float) int

func compareInt(n int64) numberCompare {
	return func(b *big.Float) int { return new(big.Float).SetInt64(n).Cmp(b) }
}

// bound reads a bound from a tag. A wrong one is a programmer's error.
func (f *field) bound(s string) *big.Float {
	var n int64
	var err error
	switch {
	case f.typ == reflect.TypeFor[time.Duration]():
		var t time.Duration
		t, err = parseDuration(s)
		n = int64(t)
	case f.unit == "bytes":
		n, err = parseSize(s)
	default:
		v, ok := new(big.Float).SetString(s)
		if ok {
			return v
		}
		err = errors.New("not a number")
	}
	if err != nil {
		panic(fmt.Sprintf("config: bound %q of %s: %v", s, f.name, err))
	}
	return new(big.Float).SetInt64(n)
}

// parseSize reads a size: a whole number and B, KiB, MiB, GiB or TiB.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "BKMGTi")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || digits[0] == '+' {
		return 0, errors.New("not a size")
	}
	shift := 0
	switch s[len(digits):] {
	case "B":
	case "KiB":
		shift = 10
	case "MiB":
		shift = 20
	case "GiB":
		shift = 30
	case "TiB":
		shift = 40
	default:
		return 0, errors.New("not a size")
	}
	if n > math.MaxInt64>>shift {
		return 0, errors.New("too large")
	}
	return n << shift, nil
}

// sizeText is n as it is written in a file.
func sizeText(n int64) string {
	for _, u := range []struct {
		shift int
		name  string
	}{{40, "TiB"}, {30, "GiB"}, {20, "MiB"}, {10, "KiB"}} {
		if n != 0 && n&(1<<u.shift-1) == 0 {
			return strconv.FormatInt(n>>u.shift, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// parseDuration reads a duration, with days, too: 400d.
func parseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// durationText is t without the zeros that time.Duration prints: 2m, not 2m0s.
func durationText(t time.Duration) string {
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// parseNetwork reads a prefix, or an address as the prefix of only itself.
func parseNetwork(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%.60q is neither a network nor an address", s)
		}
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%.60q isn't a network", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its prefix; the network is %s", s, p.Masked())
	}
	return p, nil
}
