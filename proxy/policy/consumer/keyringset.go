package consumer

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// change is what becomes of the shards, by shard.
type change struct {
	add, remove map[int][]*liveKey
	added       map[Hash]*liveKey
	removed     map[*liveKey]bool
}

func newChange() *change {
	return &change{map[int][]*liveKey{}, map[int][]*liveKey{}, map[Hash]*liveKey{}, map[*liveKey]bool{}}
}

func (c *change) put(k *liveKey) {
	i := shardOf(&k.Hash)
	c.add[i] = append(c.add[i], k)
	c.added[k.Hash] = k
}

func (c *change) drop(k *liveKey) {
	i := shardOf(&k.Hash)
	c.remove[i] = append(c.remove[i], k)
	c.removed[k] = true
}

// SetFiles tells of the directory that is in force from now on, and of the
// consumers beside it.
func (k *Keyring) SetFiles(files, more *Directory) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.files = files
	k.more.Store(more)
	for _, o := range k.owners {
		k.resolve(o)
	}
	k.tell()
}

// resolve finds the consumer of an owner's name. One in a file comes first.
func (k *Keyring) resolve(o *owner) {
	c := k.files.Named(o.name)
	if c == nil {
		c = k.more.Load().Named(o.name)
	}
	o.now.Store(c)
}

// tell wakes who waits for a change.
func (k *Keyring) tell() {
	close(k.seen)
	k.seen = make(chan struct{})
}

// Changed is closed at the next change.
func (k *Keyring) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen
}

// Update takes over the records of an origin that have changed, by consumer; an
// empty one is none any more. It works on what differs, and returns of which
// revocations the origin knows by now, or hasn't the keys any more.
func (k *Keyring) Update(from Origin, changed map[string]Record) (known []Hash) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := newChange()
	names := slices.Sorted(maps.Keys(changed))
	for _, name := range names {
		if len(changed[name].Keys) == 0 { // first, so that another may have its keys
			known = append(known, k.set(c, from, name, Record{})...)
		}
	}
	for _, name := range names {
		known = append(known, k.set(c, from, name, changed[name])...)
	}
	k.apply(c)
	return known
}

// set notes what changes with a record of an owner.
func (k *Keyring) set(c *change, from Origin, name string, r Record) (known []Hash) {
	o := k.owners[name]
	if o == nil {
		o = &owner{name: name}
		k.resolve(o)
		k.owners[name], k.sorted = o, nil
	}
	was := map[Hash]*liveKey{}
	for _, old := range o.keys[from] {
		was[old.Hash] = old
	}
	delete(k.clashes, from.String()+" "+name)
	var list []*liveKey
	for _, key := range r.Keys {
		if at, ok := k.lifted[key.Hash]; ok {
			if key.Revoked != 0 {
				known = append(known, key.Hash)
				delete(k.lifted, key.Hash)
			} else {
				key.Revoked = at
			}
		}
		old := was[key.Hash]
		if old != nil && old.Key == key {
			list = append(list, old)
			delete(was, key.Hash)
			continue
		}
		if other := k.taken(c, &key.Hash); other != nil && other != old {
			k.clashes[from.String()+" "+name] = fmt.Sprintf("key %s is consumer %q's already, and isn't used", key.Hash.ID(), other.owner.name)
			continue
		}
		live := &liveKey{key, o}
		c.put(live)
		list = append(list, live)
	}
	for h, old := range was {
		c.drop(old)
		if _, ok := k.lifted[h]; ok && !slices.ContainsFunc(list, func(l *liveKey) bool { return l.Hash == h }) {
			known = append(known, h) // it stays lifted: should the key come back, nobody has revoked it there
		}
	}
	k.count[from] += len(list) - len(o.keys[from])
	o.keys[from] = list
	if len(o.keys[FromConsul])+len(o.keys[FromDisk]) == 0 {
		delete(k.owners, name)
		k.sorted = nil
	}
	return known
}

// taken is the key with a hash that stays or comes; nil: none.
func (k *Keyring) taken(c *change, h *Hash) *liveKey {
	if a := c.added[*h]; a != nil {
		return a
	}
	if found := k.key(h); found != nil && !c.removed[found] {
		return found
	}
	return nil
}

// apply makes the new shards. A request sees each before or after it.
func (k *Keyring) apply(c *change) {
	defer k.tell()
	if len(c.add)+len(c.remove) == 0 {
		return
	}
	shards := k.shards.Load()
	if shards == nil {
		shards = &[shardCount]shardAt{}
		k.shards.Store(shards)
	}
	for i := range shards {
		if len(c.add[i])+len(c.remove[i]) > 0 {
			shards[i].Store(shards[i].Load().with(c.add[i], c.removed))
		}
	}
}

// Lift makes keys revoked here whatever their origin says, until it says so, too.
func (k *Keyring) Lift(revoked map[Hash]int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := newChange()
	for h, at := range revoked {
		if k.lifted[h] == 0 {
			k.lifted[h] = at
		}
		old := k.key(&h)
		if old == nil || old.Revoked != 0 {
			continue
		}
		live := &liveKey{old.Key, old.owner}
		live.Revoked = at
		c.drop(old)
		c.put(live)
		for from := range live.owner.keys {
			if i := slices.Index(live.owner.keys[from], old); i >= 0 {
				live.owner.keys[from] = slices.Clone(live.owner.keys[from])
				live.owner.keys[from][i] = live
			}
		}
	}
	k.apply(c)
}

// Problems says which records have keys that aren't used.
func (k *Keyring) Problems() map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.clashes)
}

// Counts are how many keys each origin has.
func (k *Keyring) Counts() [origins]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

// Kept is a key on the ring, with whose it is and where it is kept.
type Kept struct {
	Key
	Consumer string
	From     Origin
}

// State is what is the matter with it, its consumer included.
func (k *Keyring) State(e *Kept, now time.Time) State {
	if s := e.Key.State(now); s != Active {
		return s
	}
	if found := k.key(&e.Hash); found == nil || found.owner.now.Load() == nil {
		return Orphaned
	}
	return Active
}

// Of returns the keys of a consumer, in the order in which they were made.
func (k *Keyring) Of(name string) []Kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.owners[name]
	if o == nil {
		return nil
	}
	var list []Kept
	for from, keys := range o.keys {
		for _, l := range keys {
			list = append(list, Kept{l.Key, name, Origin(from)})
		}
	}
	slices.SortStableFunc(list, func(a, b Kept) int { return int(a.Created - b.Created) })
	return list
}

// Owners names, sorted, all who have keys. The list is nobody's to change.
func (k *Keyring) Owners() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sorted == nil {
		k.sorted = slices.Sorted(maps.Keys(k.owners))
	}
	return k.sorted
}

// ByID returns the keys whose hashes begin with a text.
func (k *Keyring) ByID(id string) []Kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	var list []Kept
	for name, o := range k.owners {
		for from, keys := range o.keys {
			for _, l := range keys {
				if l.Hash.begins(id) {
					list = append(list, Kept{l.Key, name, Origin(from)})
				}
			}
		}
	}
	return list
}
