package charge

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
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

	// Of a total.
	Day   string `json:"day,omitempty"`
	Told  int64  `json:"told,omitempty"`
	Count int64  `json:"count,omitempty"`
}

// appendRecord appends a line: its checksum, a space, and JSON.
func appendRecord(b []byte, r *record) []byte {
	line, err := json.Marshal(r)
	if err != nil {
		panic("charge: " + err.Error()) // strings and numbers always encode
	}
	b = fmt.Appendf(b, "%08x ", crc32.ChecksumIEEE(line))
	return append(append(b, line...), '\n')
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
