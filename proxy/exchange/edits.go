package exchange

// Edits is how a head that goes out differs from the one that came in: fields
// to set, to add and to remove. It is applied while the head is serialised;
// the head itself stays as it came. Its zero value changes nothing.
type Edits struct {
	list []edit
	set  [2]uint64 // ids that some edit replaces or removes
	any  [2]uint64 // ids that some edit has
	odd  bool      // some edit replaces or removes a name without an id
}

type edit struct {
	name, value string
	id          ID
	kind        uint8
}

const (
	editSet uint8 = iota
	editAdd
	editRemove
	editVoid // overtaken by a later edit
)

// Reset empties e, keeping its memory.
func (e *Edits) Reset() {
	clear(e.list)
	e.list = e.list[:0]
	e.set, e.any = [2]uint64{}, [2]uint64{}
	e.odd = false
}

// Empty reports whether e changes nothing.
func (e *Edits) Empty() bool { return len(e.list) == 0 }

// Set replaces all fields of that name with one. Both strings must live as
// long as the exchange.
func (e *Edits) Set(name, value string) { e.put(name, value, editSet) }

// Add adds a field beside those of the same name.
func (e *Edits) Add(name, value string) { e.put(name, value, editAdd) }

// Remove removes all fields of that name, those that edits added before
// included.
func (e *Edits) Remove(name string) { e.put(name, "", editRemove) }

// SetID is Set for a well-known name, spelt as given; it needs no look-up.
func (e *Edits) SetID(id ID, name, value string) { e.putID(id, name, value, editSet) }

// AddID is Add for a well-known name.
func (e *Edits) AddID(id ID, name, value string) { e.putID(id, name, value, editAdd) }

func (e *Edits) put(name, value string, kind uint8) { e.putID(Lookup(name), name, value, kind) }

func (e *Edits) putID(id ID, name, value string, kind uint8) {
	bit := uint64(1) << (id & 63)
	if kind != editAdd {
		if e.any[id>>6]&bit != 0 {
			e.overtake(id, name)
		}
		if id == Other {
			e.odd = true
		} else {
			e.set[id>>6] |= bit
		}
	}
	e.any[id>>6] |= bit
	e.list = append(e.list, edit{name: name, value: value, id: id, kind: kind})
}

// overtake takes back the edits of that name.
func (e *Edits) overtake(id ID, name string) {
	for i := range e.list {
		if e.list[i].id == id && (id != Other || EqualFold(e.list[i].name, name)) {
			e.list[i].kind = editVoid
		}
	}
}

// Replaces reports whether a field of the head, with that name and id, doesn't
// go out because an edit sets or removes it.
func (e *Edits) Replaces(name string, id ID) bool {
	if id != Other {
		return e.set[id>>6]&(1<<(id&63)) != 0
	}
	if !e.odd {
		return false
	}
	for i := range e.list {
		d := &e.list[i]
		if d.id == Other && (d.kind == editSet || d.kind == editRemove) && EqualFold(d.name, name) {
			return true
		}
	}
	return false
}

// MayTrail reports whether a trailer field with that name and id may go on
// behind the head that e changes: not one with a meaning of its own for framing,
// routing, authentication or content (RFC 9110, 6.5.1), nor one that e sets or
// removes, nor one that says who the client is. Whoever merges trailers into the
// head would otherwise take the sender's word for the gateway's.
func (e *Edits) MayTrail(name string, id ID) bool {
	switch id {
	case GRPCStatus, ETag:
		return !e.Replaces(name, id)
	case Other:
		const claim = "x-forwarded-"
		return !e.Replaces(name, id) && (len(name) < len(claim) || !EqualFold(name[:len(claim)], claim))
	default:
		return false
	}
}

// Len is the number of fields that e adds at most; Field gives each.
func (e *Edits) Len() int { return len(e.list) }

// ID is the id of the name of edit i.
func (e *Edits) ID(i int) ID { return e.list[i].id }

// Field returns the field that edit i puts out; ok is false for one that puts
// out none.
func (e *Edits) Field(i int) (name, value string, ok bool) {
	d := &e.list[i]
	return d.name, d.value, d.kind == editSet || d.kind == editAdd
}
