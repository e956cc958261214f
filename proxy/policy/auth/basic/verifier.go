package basic

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy/consumer"
)

const (
	ways       = 4
	cacheRows  = 1024
	maxWaiting = 64 // requests that wait for a check
	patience   = 2 * time.Second
)

// Verifier checks passwords, few at a time, and remembers what came out: a check
// takes a tenth of a second of a core, and clients send their password with each
// request. It serves all routes and outlives reloads. It starts no goroutine.
//
// What is remembered are hashes under a key of this process, of user, password
// and the configured hash together, so that none holds for another password of
// the configuration, and none is of use to who reads the memory alone. Right and
// wrong ones have room of their own: whoever guesses can't push out those who
// know.
type Verifier struct {
	key          [sha256.Size]byte
	right, wrong memory
	work         chan struct{} // a place for each check at a time
	waiting      atomic.Int32

	checks, busy atomic.Uint64
}

type sum = [sha256.Size]byte

type rows [cacheRows][ways]atomic.Pointer[sum]

type memory struct {
	rows func() *rows // made at the first password: most gateways have none
	next atomic.Uint32
}

func (m *memory) has(s *sum) bool {
	row := &m.rows()[binary.LittleEndian.Uint16(s[:])%cacheRows]
	for i := range row {
		if o := row[i].Load(); o != nil && *o == *s {
			return true
		}
	}
	return false
}

func (m *memory) add(s sum) {
	row := &m.rows()[binary.LittleEndian.Uint16(s[:])%cacheRows]
	for i := range row {
		if row[i].CompareAndSwap(nil, &s) {
			return
		}
	}
	row[m.next.Add(1)%ways].Store(&s)
}

// NewVerifier returns a verifier that takes half of the cores at most.
func NewVerifier() *Verifier {
	newRows := func() *rows { return new(rows) }
	v := &Verifier{right: memory{rows: sync.OnceValue(newRows)}, wrong: memory{rows: sync.OnceValue(newRows)}, work: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	rand.Read(v.key[:]) // never fails (crypto/rand)
	return v
}

// Checks is how many passwords were checked, and how many requests were refused
// because too many others waited.
func (v *Verifier) Checks() (checks, busy uint64) { return v.checks.Load(), v.busy.Load() }

// check reports whether a password is right; known is false when there was no
// time to find out.
func (v *Verifier) check(p *consumer.Password, user, password []byte) (right, known bool) {
	var buf [1536]byte
	b := append(buf[:0], v.key[:]...)
	b = append(append(b, user...), 0) // no control character is in either
	b = append(append(b, p.Hash...), 0)
	s := sha256.Sum256(append(b, password...))
	if right, known = v.remembered(&s); known {
		return right, true
	}
	if !v.enter() {
		v.busy.Add(1)
		return false, false
	}
	defer func() { <-v.work }()
	if right, known = v.remembered(&s); known { // one of many that came at once
		return right, true
	}
	v.checks.Add(1)
	if right = p.Check(password); right {
		v.right.add(s)
	} else {
		v.wrong.add(s)
	}
	return right, true
}

func (v *Verifier) remembered(s *sum) (right, known bool) {
	if v.right.has(s) {
		return true, true
	}
	return false, v.wrong.has(s)
}

// enter takes a place to check a password in, and waits for one, for a time.
func (v *Verifier) enter() bool {
	select {
	case v.work <- struct{}{}:
		return true
	default:
	}
	if v.waiting.Add(1) > maxWaiting {
		v.waiting.Add(-1)
		return false
	}
	defer v.waiting.Add(-1)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case v.work <- struct{}{}:
		return true
	case <-t.C:
		return false
	}
}
