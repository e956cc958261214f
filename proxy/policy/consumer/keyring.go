package consumer

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Keyring has what comes and goes while a configuration stays: keys that were
// made by command, and consumers that stand in no file. It belongs to the
// gateway; all directories of a gateway look into it for what they don't have
// themselves. It starts no goroutine.
//
// A request takes no lock. Keys stand in shards, each a hash table that never
// changes: a change makes a new one of the shards that it concerns, some hundred
// keys among a million. A key refers to its owner, and the owner to the consumer
// of that name in the configuration in force, so that neither a reload nor a
// change of a consumer touches its keys.
type Keyring struct {
	more   atomic.Pointer[Directory]           // the consumers that stand in no file
	shards atomic.Pointer[[shardCount]shardAt] // nil: there has never been a key
	used   chan struct{}
	once   sync.Once

	mu      sync.Mutex // guards what follows
	files   *Directory // of the configuration in force
	owners  map[string]*owner
	sorted  []string // their names; nil: not sorted yet
	count   [origins]int
	lifted  map[Hash]int64 // revoked here, and where they are kept nobody has heard of it
	clashes map[string]string
	seen    chan struct{} // closed at the next change
}

// Origin is where a key or consumer is kept that stands in no file.
type Origin uint8

// The origins.
const (
	FromConsul Origin = iota
	FromDisk
	origins
)

// String names the origin.
func (o Origin) String() string {
	if o == FromConsul {
		return "consul"
	}
	return "state_dir"
}

// owner is whoever has keys: a consumer, if there is one of that name.
type owner struct {
	name string
	now  atomic.Pointer[exchange.Consumer] // nil: there is none
	keys [origins][]*liveKey
}

// liveKey is a key on the ring. It never changes.
type liveKey struct {
	Key
	owner *owner
}

const shardCount = 4096

type shardAt = atomic.Pointer[shard]

// shard is an open hash table, at most half full.
type shard struct {
	slots []*liveKey
	n     int
}

// NewKeyring returns a keyring without keys.
func NewKeyring() *Keyring {
	return &Keyring{used: make(chan struct{}), owners: map[string]*owner{}, lifted: map[Hash]int64{}, clashes: map[string]string{}, seen: make(chan struct{})}
}

// Use says that somebody looks for keys: until then nobody need bring any.
func (k *Keyring) Use() { k.once.Do(func() { close(k.used) }) }

// Used is closed once somebody looks for keys.
func (k *Keyring) Used() <-chan struct{} { return k.used }

func shardOf(h *Hash) int { return int(binary.LittleEndian.Uint16(h[8:]) % shardCount) }

func (s *shard) slot(h *Hash) (int, *liveKey) {
	mask := len(s.slots) - 1
	for i := int(binary.LittleEndian.Uint64(h[:8])) & mask; ; i = (i + 1) & mask {
		k := s.slots[i]
		if k == nil || subtle.ConstantTimeCompare(k.Hash[:], h[:]) == 1 {
			return i, k
		}
	}
}

// key is the one with a hash; nil: there is none.
func (k *Keyring) key(h *Hash) *liveKey {
	shards := k.shards.Load()
	if shards == nil {
		return nil
	}
	s := shards[shardOf(h)].Load()
	if s == nil {
		return nil
	}
	_, found := s.slot(h)
	return found
}

// Has reports whether there is a key with a hash.
func (k *Keyring) Has(h Hash) bool { return k.key(&h) != nil }

// find is Directory.Find for what isn't in the directory.
func (k *Keyring) find(h *Hash, at time.Time) (*exchange.Consumer, State) {
	if found := k.key(h); found != nil {
		if s := found.State(at); s != Active {
			return nil, s
		}
		if c := found.owner.now.Load(); c != nil {
			return c, Active
		}
		return nil, Orphaned
	}
	return k.more.Load().find(h, at)
}

func (k *Keyring) describe(h *Hash, at time.Time) string {
	found := k.key(h)
	if found == nil {
		return k.more.Load().describe(h, at)
	}
	text := fmt.Sprintf("key %s of consumer %q", h.ID(), found.owner.name)
	if found.Revoked != 0 {
		return text + ", revoked " + time.Unix(found.Revoked, 0).UTC().Format(time.RFC3339)
	}
	if found.owner.now.Load() == nil {
		text += ", which isn't there"
	}
	if found.Expires != 0 {
		text += ending(found.Expires, at)
	}
	return text
}

// with returns the shard with keys added, and without those that are gone.
func (s *shard) with(add []*liveKey, gone map[*liveKey]bool) *shard {
	var old []*liveKey
	if s != nil {
		old = s.slots
	}
	out := &shard{}
	n := len(add)
	if s != nil {
		n += s.n
	}
	size := 2
	for size < 2*(n+1) {
		size *= 2
	}
	out.slots = make([]*liveKey, size)
	for _, list := range [][]*liveKey{old, add} {
		for _, k := range list {
			if k == nil || gone[k] {
				continue
			}
			i, _ := out.slot(&k.Hash)
			out.slots[i] = k
			out.n++
		}
	}
	if out.n == 0 {
		return nil
	}
	return out
}

// More is the directory of the consumers that stand in no file; nil: none.
func (k *Keyring) More() *Directory { return k.more.Load() }
