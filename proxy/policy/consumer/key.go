package consumer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Hash is the SHA-256 of a key. Keys themselves are kept nowhere.
type Hash [sha256.Size]byte

// ParseHash reads a hash in hexadecimal.
func ParseHash(text string) (Hash, error) {
	var h Hash
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(h) {
		return h, fmt.Errorf("%.80q isn't a SHA-256 in hexadecimal, 64 digits", text)
	}
	copy(h[:], b)
	if h == sha256.Sum256(nil) {
		return h, errors.New("that is the hash of an empty key")
	}
	return h, nil
}

// idLen is how many digits of a hash name a key. 48 bits tell a million keys
// apart, and say of a key of 256 bits nothing that helps to find it.
const idLen = 12

// ID names the key in lists and logs: the first digits of its hash, so that
// whoever has a key can tell which one it is, and nobody the other way round.
func (h *Hash) ID() string { return hex.EncodeToString(h[:idLen/2]) }

// begins reports whether the hash begins with hexadecimal digits, in lower case.
func (h *Hash) begins(digits string) bool {
	const hexadecimal = "0123456789abcdef"
	if len(digits) > 2*len(h) {
		return false
	}
	for i := range len(digits) {
		if digits[i] != hexadecimal[h[i/2]>>(4*(1-i%2))&15] {
			return false
		}
	}
	return true
}

// MarshalText is the hash in hexadecimal.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText reads a hash in hexadecimal.
func (h *Hash) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHash(string(text))
	return err
}

// secretPrefix lets people, and scanners for secrets, see what a key is one of.
const secretPrefix = "sg_"

// NewSecret makes a key of 256 bits.
func NewSecret() (secret string, h Hash) {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	secret = secretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, sha256.Sum256([]byte(secret))
}

// State is what is the matter with a key.
type State uint8

// The states.
const (
	Unknown State = iota
	Active
	Expired
	Revoked
	Orphaned // the consumer that it is of isn't there
)

// String is the state as people read it.
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Expired:
		return "expired"
	case Revoked:
		return "revoked"
	case Orphaned:
		return "no consumer"
	default:
		return "unknown"
	}
}

// maxAhead bounds how far off an end may be: beyond, it is most likely a slip.
const maxAhead = 100 * 366 * 24 * time.Hour

// ParseEnd reads when a key ends: a day, which stands for its beginning (UTC),
// or a time with its zone.
func ParseEnd(text string) (time.Time, error) {
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		t, err = time.Parse(time.RFC3339, text)
	}
	if err != nil {
		return t, fmt.Errorf("%.60q isn't a day such as 2027-06-30, or a time such as 2027-06-30T18:00:00Z", text)
	}
	if t.Year() < 1971 || t.Year() > 9000 {
		return t, fmt.Errorf("the year %d isn't one in which a key ends", t.Year())
	}
	return t, nil
}

// ParseLifetime reads when a key that is made now ends: as ParseEnd, or how long
// it lasts, such as 90d or 12h. "" and never are the zero time.
func ParseLifetime(text string, now time.Time) (time.Time, error) {
	if text == "" || text == "never" {
		return time.Time{}, nil
	}
	end, err := ParseEnd(text)
	if err != nil {
		lasts, bad := ParseDuration(text)
		if bad != nil {
			return end, fmt.Errorf("%.60q isn't how long a key lasts, such as 90d or 12h, a day such as 2027-06-30, or never", text)
		}
		end = now.Add(lasts)
	}
	if !end.After(now) {
		return end, fmt.Errorf("%s isn't in the future", text)
	}
	if end.Sub(now) > maxAhead {
		return end, fmt.Errorf("%s is more than 100 years off: leave it out, or write never", text)
	}
	return end, nil
}

// ParseDuration is time.ParseDuration with days and weeks: 90d, 2w.
func ParseDuration(text string) (time.Duration, error) {
	for unit, of := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		digits, ok := strings.CutSuffix(text, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || time.Duration(n) > maxAhead/of {
			return 0, fmt.Errorf("%.60q isn't a number of days or weeks, such as 90d", text)
		}
		return time.Duration(n) * of, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%.60q isn't a duration, such as 90d, 12h or 30m", text)
	}
	return d, nil
}
