// Package abuse scores a client's connection by what costs the gateway something
// and the client nothing: frames that carry nothing, requests that are given up
// or can't be served, heads that don't come to an end. One score is for all of
// it and for every protocol, so that a mixture is no way around a limit.
//
// The score halves each second. At three quarters of the most, the connection is
// asked to end when its requests have (GOAWAY, Connection: close); at the most it
// is closed. A client that sends in earnest stays far below: what answers data
// of ours, and some of everything, is free (the fronts say how much).
//
// It imports nothing of ours and starts no goroutine. A score isn't safe for
// concurrent use: its connection guards it.
package abuse

// Kind is what a client does.
type Kind uint8

// The kinds.
const (
	Malformed Kind = iota // a message or frame that makes no sense
	Reset                 // requests given up, more than there are in earnest
	Refused               // requests refused for their form, or for being too many at once
	Headers               // heads that are too large, or in too many pieces
	Slow                  // a head that doesn't come to its end
	Empty                 // DATA, HEADERS or CONTINUATION with nothing in it
	Settings
	Ping
	Priority
	Window  // WINDOW_UPDATEs that no data explains, windows of few bytes
	Stray   // frames and streams that nobody asked for any more
	Unknown // frames of unknown types
	kinds
)

// Most is the score at which a connection is closed.
const Most = 2000

// leaveAt is where it is asked to end.
const leaveAt = Most / 4 * 3

const second = int64(1e9)

// behaviours are what the kinds are called, and cost.
var behaviours = [kinds]struct {
	name string
	cost int
}{
	Malformed: {"malformed", 40},
	Reset:     {"reset", 50},
	Refused:   {"refused", 20},
	Headers:   {"headers", 40},
	Slow:      {"slow", 500},
	Empty:     {"empty", 20},
	Settings:  {"settings", 50},
	Ping:      {"ping", 20},
	Priority:  {"priority", 4},
	Window:    {"window", 10},
	Stray:     {"stray", 10},
	Unknown:   {"unknown", 10},
}

// String is the kind as logs and metrics name it.
func (k Kind) String() string { return behaviours[k].name }

// Kinds are all there are.
func Kinds() []Kind {
	list := make([]Kind, kinds)
	for i := range list {
		list[i] = Kind(i)
	}
	return list
}

// Verdict is what becomes of a connection.
type Verdict uint8

// The verdicts.
const (
	Bear  Verdict = iota // it goes on
	Leave                // it is to end with what runs on it
	Cut                  // it is closed
)

// Score is that of one connection. The zero value is ready.
type Score struct {
	at     int64        // when it was last halved
	points [kinds]int16 // of at most Most each
}

// Add adds what n times k costs, and says what that means. now is in
// nanoseconds.
func (s *Score) Add(now int64, k Kind, n int) Verdict {
	if past := (now - s.at) / second; past > 0 {
		for i := range s.points {
			s.points[i] >>= min(past, 15)
		}
		s.at = now
	}
	s.at = min(s.at, now) // the clock may be set back
	s.points[k] = int16(min(int(s.points[k])+n*behaviours[k].cost, Most))
	switch sum := s.sum(); {
	case sum >= Most:
		return Cut
	case sum >= leaveAt:
		return Leave
	default:
		return Bear
	}
}

// Exceed makes the score the most: for what ends a connection by itself.
func (s *Score) Exceed(k Kind) { s.points[k] = Most }

func (s *Score) sum() (n int) {
	for _, p := range s.points {
		n += int(p)
	}
	return n
}

// Worst is the kind with the most points.
func (s *Score) Worst() Kind {
	worst := Malformed
	for k, p := range s.points {
		if p > s.points[worst] {
			worst = Kind(k)
		}
	}
	return worst
}

// resetFloor is the number of requests in a second from which on the share of
// resets among them counts.
const resetFloor = 100

// Resets tells requests that are given up in earnest from an attack (rapid
// reset, CVE-2023-44487).
type Resets struct {
	since  int64
	opened uint64 // requests before since
	resets uint64
}

// Reset counts a request that ended early by the client's doing, of opened ones
// on the connection so far, and reports whether it is one too many: more than
// half of at least resetFloor of a second end so, or more than twice as many as
// may be open at a time, unless they are less than a quarter of all.
func (r *Resets) Reset(now int64, opened uint64, maxOpen int) bool {
	if now-r.since >= second || now < r.since { // the clock was set back
		*r = Resets{since: now, opened: opened - min(opened, 1)}
	}
	r.resets++
	opened -= min(r.opened, opened)
	if opened >= resetFloor && r.resets*2 > opened+1 { // those before the first reset aren't counted
		return true
	}
	return r.resets > 2*uint64(maxOpen) && r.resets*4 > opened
}
