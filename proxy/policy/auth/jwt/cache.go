package jwt

import (
	"crypto/sha256"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth/claims"
	"github.com/sidegate-proxy/sidegate/proxy/policy/keyset"
)

// verified is a token whose signature was found right, and what it says. Who
// may use it is decided for each request anew. It never changes.
type verified struct {
	sum      [sha256.Size]byte // of the token, which itself is kept nowhere
	key      *keyset.Key
	alg      keyset.Alg
	exp, nbf int64 // seconds; nbf 0: none
	audience []string
	who      claims.Memo
	claims   *exchange.Claims
	size     int64 // bytes in memory, about
}

const (
	ways      = 8        // places for a token
	cacheSets = 2048     // with ways: 16384 tokens
	maxMemory = 64 << 20 // of what is remembered of them
)

// Cache remembers tokens that were found right until they end, so that one that
// comes again costs a hash and no signature. It serves all routes, outlives
// reloads, and never grows beyond its bounds: the tokens that end first leave
// first. Reading takes no lock.
type Cache struct {
	slots func() *slots // made at the first token: most gateways have none
	used  atomic.Int64  // bytes
	swept atomic.Int64  // when, in seconds

	checked atomic.Uint64 // signatures that were looked at
}

type slots [cacheSets][ways]atomic.Pointer[verified]

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{slots: sync.OnceValue(func() *slots { return new(slots) })} }

// Checked is how many signatures were looked at: the tokens that weren't
// remembered.
func (c *Cache) Checked() uint64 { return c.checked.Load() }

// row is the places of a token. Nobody who doesn't have the issuer's key can
// choose what comes here.
func (c *Cache) row(sum *[sha256.Size]byte) *[ways]atomic.Pointer[verified] {
	return &c.slots()[(int(sum[0])|int(sum[1])<<8)%cacheSets]
}

// find returns a token, that of a set above all: another one's only tells whose
// it is; nil: it isn't known.
func (c *Cache) find(sum *[sha256.Size]byte, s *keyset.Set) *verified {
	var other *verified
	row := c.row(sum)
	for i := range row {
		v := row[i].Load()
		switch {
		case v == nil || v.sum != *sum:
		case v.key.Set() == s:
			return v
		default:
			other = v
		}
	}
	return other
}

// over reports whether a token won't be right again.
func (v *verified) over(now time.Time) bool { return now.Unix()-skew >= v.exp || !v.key.Alive(now) }

// add remembers a token, in a free place, else in that of one that is over, else
// of the one that ends first. Two at once may overtake each other: that costs a
// signature once more.
func (c *Cache) add(v *verified, now time.Time) {
	if c.used.Load()+v.size > maxMemory {
		c.sweep(now)
	}
	full := c.used.Load()+v.size > maxMemory
	row := c.row(&v.sum)
	place, last := -1, (*verified)(nil) // what stands there
	for i := range row {
		o := row[i].Load()
		if o == nil {
			if !full {
				place, last = i, nil
				break
			}
			continue
		}
		if place < 0 || o.over(now) || o.exp < last.exp && !last.over(now) {
			place, last = i, o
		}
	}
	if place < 0 || full && last.size < v.size || !row[place].CompareAndSwap(last, v) {
		return
	}
	c.used.Add(v.size)
	if last != nil {
		c.used.Add(-last.size)
	}
}

// sweep gives the memory of tokens that are over back, at most once a second.
func (c *Cache) sweep(now time.Time) {
	before := c.swept.Load()
	if before == now.Unix() || !c.swept.CompareAndSwap(before, now.Unix()) {
		return
	}
	list := c.slots()
	for i := range list {
		for j := range list[i] {
			if v := list[i][j].Load(); v != nil && v.over(now) && list[i][j].CompareAndSwap(v, nil) {
				c.used.Add(-v.size)
			}
		}
	}
}
