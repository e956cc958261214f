package charge

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/estate"
	"github.com/sidegate-proxy/sidegate/proxy/policy/intake"
)

// LedgerConfig is a charges block: what holds for all charges of a gateway.
type LedgerConfig struct {
	// Room on the disk for charges that the billing services don't know of yet, and for what is remembered of others. Without room, charged routes do what their when_down says. A change takes a restart.
	Spool int64 `hcl:"spool,attr" unit:"bytes" default:"256MiB" min:"1MiB"`
	// How long a charge that the billing service can't be told of is tried again, until it becomes a dead letter. A change takes a restart.
	Patience time.Duration `hcl:"patience,attr" default:"168h" min:"1m"`
}

// Deps are what a Ledger works with.
type Deps struct {
	Log    logrus.FieldLogger
	Path   string // of its folder; "": nothing is kept
	Config LedgerConfig
	Now    func() time.Time // nil: time.Now
}

const (
	// slow is how long a request waits for the disk. One that is slower than that is
	// as good as broken.
	slow       = 2 * time.Second
	retryFirst = 250 * time.Millisecond
	retryMost  = 10 * time.Second
	// shrinkAt is the size from which a new file is begun when most of the old one
	// doesn't count any more.
	shrinkAt = 8 << 20
	tick     = time.Second
)

var (
	errFull   = errors.New("charges fill the room that charges.spool gives them")
	errSlow   = errors.New("the disk is too slow for charges")
	errClosed = errors.New("the gateway is shutting down")
)

// Ledger knows what was charged, and sees to it that the billing services get to
// know. It belongs to the gateway and outlives configurations.
type Ledger struct {
	Deps
	node string // who we are to the billing services
	ids  ids

	bodies *intake.Room // for the contents that clients' keys are for

	opening sync.Mutex // guards what follows
	opened  bool
	held    bool    // the journal is another process's (Hold)
	wanted  bool    // it is to be opened when it isn't any more
	file    journal // the writer's, once opened
	wake    chan struct{}
	turns   chan turn     // what the writer is to do between two writes
	kick    chan struct{} // for the courier
	broken  atomic.Pointer[error]
	ctx     context.Context // ends when Run is to
	stop    context.CancelFunc
	working sync.WaitGroup // what asks and tells in the background

	mu      sync.Mutex // guards what follows
	state   state
	flights map[string]*entry // charges in flight, by the client's key
	buf     []byte            // records for the disk
	round   *round
	anew    bool // the next write begins a file
	closed  bool
	targets map[string]*Target
	counts  map[countKey]*Count
	size    int64 // of the file, as the writer last said
	bad     int   // damaged records
	swept   time.Time

	// While two processes work (yield.go).
	own     *estate.Estate            // since the yield: where the journal is; nil: it wasn't yielded
	drains  map[string]bool           // processes that have yielded and still work
	taken   map[string]*estate.Estate // what they have left, until the disk has it
	written *round                    // one that is over
	claims  *claims                   // clients' keys that were paid for meanwhile; nil: there is one process
}

// round is what gets to the disk at once.
type round struct {
	done chan struct{}
	err  error // once it is done
}

func newRound() *round { return &round{done: make(chan struct{})} }

// NewLedger returns a ledger that reads its journal when the first charge is
// compiled.
func NewLedger(d Deps) *Ledger {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Config.Spool == 0 {
		d.Config = LedgerConfig{Spool: 256 << 20, Patience: 168 * time.Hour}
	}
	l := &Ledger{
		Deps: d, wake: make(chan struct{}, 1), turns: make(chan turn), kick: make(chan struct{}, 1), state: newState(), flights: map[string]*entry{}, round: newRound(),
		bodies: intake.NewRoom(), targets: map[string]*Target{}, counts: map[countKey]*Count{},
		written: newRound(), drains: map[string]bool{}, taken: map[string]*estate.Estate{},
	}
	rand.Read(l.ids.boot[:]) // never fails (crypto/rand)
	close(l.written.done)
	l.ctx, l.stop = context.WithCancel(context.Background())
	return l
}

// ids makes ids that nobody else makes: time, what is this process's alone, and a
// number. Their order is that of the time.
type ids struct {
	boot [6]byte
	n    atomic.Uint32
}

func (i *ids) next(now time.Time) string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(now.UnixMilli())<<16)
	copy(b[6:], i.boot[:])
	binary.BigEndian.PutUint32(b[12:], i.n.Add(1))
	return base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding).EncodeToString(b[:])
}

// open reads the journal, once. Without it, what was charged before would be lost:
// one that can't be read is an error.
func (l *Ledger) open() error {
	l.opening.Lock()
	defer l.opening.Unlock()
	if l.opened {
		return nil
	}
	if l.wanted = l.held; l.held {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Path != "" {
		if err := l.read(); err != nil {
			return fmt.Errorf("charges can't be read: %w", err)
		}
	}
	l.afterCrash()
	l.opened, l.anew = true, true // nothing may be appended to a line that was cut off
	l.wakeWriter()
	return nil
}

// read takes the folder, and reads what is in it.
func (l *Ledger) read() (err error) {
	if l.file.node, err = acquire(l.Path); err != nil {
		return err
	}
	l.bad, err = l.file.open(l.Path, func(r *record) { l.state.apply(r) })
	if err == nil {
		l.node, err = nodeName(l.file.node)
	}
	if err == nil {
		err = l.findDrains()
	}
	if err != nil { // it may be tried again
		l.state = newState()
		return errors.Join(err, l.file.close(), l.leaveDrains())
	}
	if l.bad > 0 {
		l.Log.WithField("folder", l.Path).Errorf("%d records of charges are damaged, and left out: compare with sidegate charges reconcile", l.bad)
	}
	return nil
}

// afterCrash decides about what was in flight when the last process ended. A
// reservation without an answer to the client is cancelled; an answer that was on
// its way is charged.
func (l *Ledger) afterCrash() {
	for _, e := range l.state.entries {
		l.undecided(e)
	}
	for _, e := range l.state.entries {
		l.enqueue(e)
	}
}

// undecided decides about what nobody waits for any more.
func (l *Ledger) undecided(e *entry) {
	switch {
	case e.State == asked && e.isLease():
		l.log(&record{Type: isReturn, ID: e.ID})
	case e.State == asked:
		l.log(&record{Type: isCancel, ID: e.ID, Reason: "the gateway stopped before the answer"})
	}
}

// nodeName is what tells this gateway's charges from those of others.
func nodeName(f *os.File) (string, error) {
	had, err := io.ReadAll(f)
	if err != nil || len(had) > 0 {
		return string(had), err
	}
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	name := hex.EncodeToString(b[:])
	if _, err := f.WriteString(name); err != nil {
		return "", err
	}
	return name, f.Sync()
}

// log changes the state and notes that for the disk; l.mu is held.
func (l *Ledger) log(r *record) *entry {
	e := l.state.apply(r)
	if l.Path != "" {
		l.buf = appendRecord(l.buf, r)
	}
	l.wakeWriter()
	return e
}

func (l *Ledger) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// flush waits until what was logged in a round is on the disk.
func (l *Ledger) flush(r *round) error {
	if l.Path == "" {
		return nil
	}
	if err := l.failing(); err != nil {
		return err
	}
	select {
	case <-r.done:
		return r.err
	default:
	}
	late := time.NewTimer(slow)
	defer late.Stop()
	select {
	case <-r.done:
		return r.err
	case <-late.C:
		if l.broken.CompareAndSwap(nil, &errSlow) {
			l.Log.WithField("folder", l.Path).Error("the disk is too slow for charges; charged routes do what their when_down says")
		}
		return errSlow
	}
}

// failing is why charges can't be written; nil: they can.
func (l *Ledger) failing() error {
	if err := l.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// Run writes and tells until ctx ends, and then what there is still to be told, for
// some seconds.
func (l *Ledger) Run(ctx context.Context) {
	done := make(chan struct{})
	writing, stopWriting := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		l.write(writing)
	}()
	l.courier(ctx)
	l.farewell()
	stopWriting()
	<-done
	l.stop()
	l.working.Wait()
}

// write gets records to the disk until ctx ends.
func (l *Ledger) write(ctx context.Context) {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	pause, wait := retryFirst, time.Time{}
	for {
		select {
		case <-ctx.Done():
			l.close()
			return
		case t := <-l.turns:
			t.done <- t.do()
			continue
		case <-l.wake:
			if time.Now().Before(wait) {
				continue // it is its time's turn
			}
		case <-retry.C:
		}
		if err := l.writeOnce(); err != nil {
			wait = time.Now().Add(pause)
			retry.Reset(pause)
			pause = min(2*pause, retryMost)
		} else {
			wait, pause = time.Time{}, retryFirst
		}
	}
}

// writeOnce writes a round. After a failure a new file is begun with all that
// counts: nobody knows how much of the last write is in the old one.
func (l *Ledger) writeOnce() error {
	l.mu.Lock()
	b, r := l.buf, l.round
	l.buf, l.round = nil, newRound()
	anew := l.anew || l.file.size > shrinkAt && l.file.size > 4*l.file.live || l.file.size+int64(len(b)) > l.Config.Spool
	var list []record
	if anew {
		list, l.anew = l.state.snapshot(), false // with what is in b
	}
	room := l.Config.Spool
	opened := l.Path != "" && l.file.dir != ""
	l.mu.Unlock()
	var err error
	switch {
	case !opened:
	case anew:
		b = nil
		for i := range list {
			b = appendRecord(b, &list[i])
		}
		if int64(len(b)) > room {
			err = errFull
		} else {
			err = l.file.replace(b)
		}
	case len(b) > 0:
		err = l.file.append(b)
	}
	l.wrote(err)
	if anew && err == nil {
		l.bury(list)
	}
	r.err = err
	close(r.done)
	return err
}

// wrote tells how the disk does.
func (l *Ledger) wrote(err error) {
	l.mu.Lock()
	l.anew, l.size = l.anew || err != nil, l.file.size
	l.mu.Unlock()
	if err != nil {
		if was := l.broken.Swap(&err); was == nil {
			l.Log.WithError(err).Error("charges can't be written to the disk: charged routes do what their when_down says")
		}
	} else if was := l.broken.Swap(nil); was != nil {
		l.Log.Info("charges are written to the disk again")
	}
}

// close writes down all there is, and lets go of the file.
func (l *Ledger) close() {
	l.mu.Lock()
	l.anew, l.closed = true, true
	l.mu.Unlock()
	err := l.writeOnce()
	if err = errors.Join(err, l.file.close(), l.release()); err != nil {
		l.Log.WithError(err).Error("charges can't be written to the disk: what they became in the last seconds may be lost")
	}
	l.broken.Store(&errClosed)
}
