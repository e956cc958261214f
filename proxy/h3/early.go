package h3

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

// Early data (0-RTT) can be sent again by whoever has seen it (RFC 8446, 8). So:
//
//   - A ticket allows it once, within an hour, and at the process that issued it
//     (single use tickets, RFC 8446, 8.1); otherwise the client comes in with a
//     full round trip. Fleets and restarts that share ticket keys gain nothing
//     for a replay.
//   - Until the handshake has completed, only requests that ask for no change
//     are served, and backends are told (Early-Data: 1); others get 425, upon
//     which clients send them again (RFC 8470, 5).
//   - A listener that asks for client certificates takes none.

const (
	earlyAge  = time.Hour
	maxStruck = 1 << 16 // early tickets in an hour; beyond, all take the round trip
)

// register knows the tickets that have been used.
type register struct {
	id [16]byte // of this process

	mu     sync.Mutex // guards what follows
	turned time.Time  // when used began
	used   map[[16]byte]struct{}
	before map[[16]byte]struct{} // used in the hour before
}

func newRegister() *register {
	r := &register{turned: time.Now(), used: map[[16]byte]struct{}{}}
	rand.Read(r.id[:]) // never fails
	return r
}

// strike uses a ticket up, and reports whether it was new.
func (r *register) strike(ticket [16]byte, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.turned) >= earlyAge {
		r.before, r.used = r.used, map[[16]byte]struct{}{}
		r.turned = now
	}
	if _, ok := r.used[ticket]; ok || len(r.used) >= maxStruck {
		return false
	}
	if _, ok := r.before[ticket]; ok {
		return false
	}
	r.used[ticket] = struct{}{}
	return true
}

const stampPrefix = "sidegate-early1:"

// stamp is what a ticket carries: who issued it, which one it is, when, and
// the setting that early data may rely on (RFC 9114, 7.2.4.2).
type stamp struct {
	issuer, ticket [16]byte
	issued         int64 // Unix seconds
	maxSection     uint64
}

func (s *stamp) bytes() []byte {
	b := append([]byte(stampPrefix), s.issuer[:]...)
	b = append(b, s.ticket[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.issued))
	return binary.BigEndian.AppendUint64(b, s.maxSection)
}

func findStamp(extra [][]byte) (s stamp, ok bool) {
	const n = len(stampPrefix)
	for _, b := range extra {
		if len(b) == n+48 && string(b[:n]) == stampPrefix {
			copy(s.issuer[:], b[n:])
			copy(s.ticket[:], b[n+16:])
			s.issued = int64(binary.BigEndian.Uint64(b[n+32:]))
			s.maxSection = binary.BigEndian.Uint64(b[n+40:])
			return s, true
		}
	}
	return s, false
}

// extensionEarlyData is the TLS extension early_data (RFC 8446, 4.2.10).
const extensionEarlyData = 42

// earlyTLS lets the tickets that the configuration makes and takes carry stamps,
// for one client.
func (f *Front) earlyTLS(r *register, hello *tls.ClientHelloInfo, v *visitor) *tls.Config {
	c := f.tls.Clone()
	wrap, unwrap := c.WrapSession, c.UnwrapSession
	if wrap == nil {
		wrap, unwrap = f.tls.EncryptTicket, f.tls.DecryptTicket
	}
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		s := stamp{issuer: r.id, issued: time.Now().Unix(), maxSection: uint64(f.maxSection)}
		rand.Read(s.ticket[:]) // never fails
		ss.Extra = append(ss.Extra, s.bytes())
		return wrap(cs, ss)
	}
	wanted := slices.Contains(hello.Extensions, extensionEarlyData)
	c.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := unwrap(identity, cs)
		if err != nil || ss == nil || !ss.EarlyData {
			return ss, err
		}
		ss.EarlyData = wanted && f.takesEarly(r, ss.Extra)
		if ss.EarlyData {
			v.early.Store(true)
		}
		return ss, nil
	}
	return c
}

func (f *Front) takesEarly(r *register, extra [][]byte) bool {
	s, ok := findStamp(extra)
	now := time.Now()
	age := now.Sub(time.Unix(s.issued, 0))
	return ok && s.issuer == r.id && age > -time.Minute && age < earlyAge && s.maxSection <= uint64(f.maxSection) && r.strike(s.ticket, now)
}

// safe reports whether a request with that method may be served before the
// handshake has completed.
func safe(method string) bool { return method == "GET" || method == "HEAD" || method == "OPTIONS" }
