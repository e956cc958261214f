package charge

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"strconv"
	"strings"
)

// The types of records: what has happened to a charge or a lease.
const (
	isStart  = "start"  // of a file: all before it is repeated behind it
	isOpen   = "open"   // the billing service is going to be asked for a reservation
	isServe  = "serve"  // the client gets an answer that costs Units
	isCancel = "cancel" // it has had none, after all
	isRefuse = "refuse" // the billing service doesn't grant it
	isDone   = "done"   // the billing service knows
	isDead   = "dead"   // and doesn't want to, for Reason
	isRetry  = "retry"  // a person has it told again
	isLease  = "lease"  // the billing service is going to be asked for a block
	isGrant  = "grant"  // of Granted, until Until
	isReturn = "return" // what is left of it goes back

	isEntry = "entry" // a charge or a lease as it was
	isKey   = "key"   // a client's key that was used for ID, until Until
	isTotal = "total" // what was charged on a day
	isHeir  = "heir"  // of the drain ID (yield.go): all that it has is in here
)

// The states of a charge, and of a lease.
const (
	asked     = "asked"     // in flight: what becomes of it isn't known
	serving   = "serving"   // its answer is on its way
	settle    = "settle"    // charged; the billing service is to be told
	cancel    = "cancel"    // not charged; likewise
	dead      = "dead"      // the billing service didn't take it
	settled   = "settled"   // charged, and it knows
	cancelled = "cancelled" // not charged
	refused   = "refused"   // by the billing service
	active    = "active"    // a lease that is spent from
	part      = "part"      // what is lent of another process's lease (yield.go)
	back      = "return"    // a lease that is given back
	returned  = "returned"
)

// record is a line of the journal, or what one says of a charge.
type record struct {
	Type     string `json:"t"`
	ID       string `json:"id,omitempty"`
	At       int64  `json:"at,omitempty"` // milliseconds since 1970
	To       string `json:"to,omitempty"` // the target's name
	Mode     string `json:"mode,omitempty"`
	Meter    string `json:"meter,omitempty"`
	Units    int64  `json:"units,omitempty"` // millionths, as all amounts here
	Consumer string `json:"consumer,omitempty"`
	Route    string `json:"route,omitempty"`
	Request  string `json:"request,omitempty"`
	Key      string `json:"key,omitempty"` // a hash of the client's key and of what it is for
	Until    int64  `json:"until,omitempty"`
	Lease    string `json:"lease,omitempty"` // that it is spent from
	State    string `json:"state,omitempty"`
	Was      string `json:"was,omitempty"` // the state before dead
	Reason   string `json:"reason,omitempty"`

	// Of a lease.
	Granted int64            `json:"granted,omitempty"`
	Used    int64            `json:"used,omitempty"`
	Days    map[string]int64 `json:"days,omitempty"` // what was used on each
	Lent    map[string]int64 `json:"lent,omitempty"` // how much to which drain

	// Of a total.
	Day   string `json:"day,omitempty"`
	Told  int64  `json:"told,omitempty"`
	Count int64  `json:"count,omitempty"`
}

const sumSize = 9 // of a line's checksum, with the space behind it

// appendRecord appends a line: its checksum, a space, and JSON as record's tags have
// it. By hand: one is made for each step of each charge.
func appendRecord(b []byte, r *record) []byte {
	at := len(b)
	b = append(b, "00000000 "...)
	b = appendText(append(b, '{'), "t", r.Type)
	for _, f := range [...]struct{ name, value string }{
		{"id", r.ID}, {"to", r.To}, {"mode", r.Mode}, {"meter", r.Meter}, {"consumer", r.Consumer}, {"route", r.Route}, {"request", r.Request}, {"key", r.Key},
		{"lease", r.Lease}, {"state", r.State}, {"was", r.Was}, {"reason", r.Reason}, {"day", r.Day},
	} {
		if f.value != "" {
			b = appendText(append(b, ','), f.name, f.value)
		}
	}
	for _, f := range [...]struct {
		name  string
		value int64
	}{{"at", r.At}, {"units", r.Units}, {"until", r.Until}, {"granted", r.Granted}, {"used", r.Used}, {"told", r.Told}, {"count", r.Count}} {
		if f.value != 0 {
			b = append(append(append(b, `,"`...), f.name...), `":`...)
			b = strconv.AppendInt(b, f.value, 10)
		}
	}
	if len(r.Days) > 0 {
		b = append(append(b, `,"days":`...), mustJSON(r.Days)...)
	}
	if len(r.Lent) > 0 {
		b = append(append(b, `,"lent":`...), mustJSON(r.Lent)...)
	}
	b = append(b, '}')
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.ChecksumIEEE(b[at+sumSize:]))
	hex.Encode(b[at:], sum[:])
	return append(b, '\n')
}

// appendText appends a member of an object.
func appendText(b []byte, name, value string) []byte {
	b = append(append(append(b, '"'), name...), `":`...)
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(b, mustJSON(value)...)
		}
	}
	return append(append(append(b, '"'), value...), '"')
}

// mustJSON is for what always encodes.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("charge: " + err.Error())
	}
	return b
}

func parseRecord(line string) (r record, ok bool) {
	sum, text, _ := strings.Cut(line, " ")
	n, err := strconv.ParseUint(sum, 16, 32)
	if err != nil || uint32(n) != crc32.ChecksumIEEE([]byte(text)) {
		return r, false
	}
	return r, json.Unmarshal([]byte(text), &r) == nil
}

// keyOf is how a client's key stands in a record.
func keyOf(sum []byte) string { return hex.EncodeToString(sum[:16]) }
