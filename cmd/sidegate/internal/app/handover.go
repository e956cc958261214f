package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/handover"
	"github.com/sidegate-proxy/sidegate/systemd"
)

// A handover, step by step (internal/handover has the protocol):
//
//	old: Handover      starts the new process with duplicates of all sockets
//	new: New, start    loads, binds what is new, plans, compiles; opens no durable state
//	new: takeOver      in enforce, with all that can fail behind it: prepared, and waits
//	old: yield         durable state: written, closed, unlocked; requests go on being served
//	new: claim         durable state: opened; then enforce commits, and accepts
//	new: takenOver     serving
//	old: passOn        tells systemd, stops accepting; Run drains
//	new: takenOver     goes on: ready
//
// A new process that fails before serving is ended, and then old: resume takes the
// durable state back.

// handoverTime is the most that a handover may take, from the start of the new process until it
// serves.
const handoverTime = 45 * time.Second

// handing is what handovers work with.
type handing struct {
	command handover.Command
	before  *handover.Predecessor // nil: nobody passed on to this process
	admin   handover.Socket       // the admin address's, from before
	kept    map[string]bool       // names of what systemd keeps open, or may; true: it does

	*passing
}

// passing is the way to the next process.
type passing struct {
	ctx      context.Context // Run's; set when running is closed
	running  chan struct{}   // closed when the gateway has started
	busy     sync.Mutex      // held by the handover that goes on
	changing sync.Mutex      // held by what changes the sockets in use, and by what passes them on
	next     atomic.Int64    // the process that has taken over; 0: none
	over     chan struct{}   // closed when all about it is said
}

func newPassing() *passing {
	return &passing{running: make(chan struct{}), over: make(chan struct{})}
}

// begin says that the gateway has started, and may pass on.
func (p *passing) begin(ctx context.Context) {
	p.ctx = ctx
	close(p.running)
}

// started waits for the end of the start: who takes over can be asked to pass on
// before it has been told that it may.
func (p *passing) started() bool {
	t := time.NewTimer(startWait)
	defer t.Stop()
	select {
	case <-p.running:
		return true
	case <-t.C:
		return false
	}
}

// startWait bounds that wait.
const startWait = 5 * time.Second

func newHanding() (handing, error) {
	h := handing{}
	var err error
	if h.command, err = handover.Started(); err != nil {
		return h, err
	}
	h.before, err = handover.Inherit()
	return h, err
}

// takeOver is called when all that can fail in a first configuration has
// succeeded: a process that takes over says so, and waits until the state is its
// own.
func (a *App) takeOver() error {
	if a.serving() {
		return nil
	}
	if a.handing.before != nil {
		if err := a.handing.before.Prepared(a.opt.Version); err != nil {
			return fmt.Errorf("take over from process %d: %w", a.handing.before.PID, err)
		}
		if a.handing.before.Gone() {
			a.log.WithField("pid", a.handing.before.PID).Warn("the old process has ended before it let go; going on without it")
		}
	}
	return a.claim()
}

// takenOver tells the process before that this one serves.
func (a *App) takenOver() {
	a.dropUnclaimed()
	if a.handing.before != nil {
		a.handing.before.Serving()
	}
	a.handing.changing.Lock()
	defer a.handing.changing.Unlock()
	a.keepSockets()
}

// Handover starts the program anew and passes everything on to it. The new process
// must serve within limit; 0, or more than 45 s: 45 s. With an error, which is
// logged, this process goes on as before.
func (a *App) Handover(limit time.Duration) (admin.Handover, error) {
	if limit <= 0 || limit > handoverTime {
		limit = handoverTime
	}
	h, err := a.handOver(limit)
	log := a.log.WithField("component", "handover")
	if err != nil {
		log.WithError(err).Error("no handover: this process goes on")
		return admin.Handover{}, err
	}
	log.WithFields(logrus.Fields{"pid": h.PID, "version": h.Version}).Info("another process has taken over")
	close(a.handing.over) // Run goes on, and ends
	return h, nil
}

var (
	errHandingOver = errors.New("another handover is going on")
	errNoHandover  = errors.New("this command can't be started a second time beside itself: only `sidegate run` hands over")
)

func (a *App) handOver(limit time.Duration) (admin.Handover, error) {
	switch {
	case !a.opt.Handover:
		return admin.Handover{}, errNoHandover
	case !a.handing.started():
		return admin.Handover{}, errors.New("this process is still starting")
	case !a.handing.busy.TryLock():
		return admin.Handover{}, errHandingOver
	}
	defer a.handing.busy.Unlock()
	a.handing.changing.Lock()
	defer a.handing.changing.Unlock()
	if a.passedOn() {
		return admin.Handover{}, fmt.Errorf("process %d has taken over already: ask it", a.handing.next.Load())
	}
	if a.handing.ctx.Err() != nil {
		return admin.Handover{}, errors.New("this process is stopping")
	}
	sockets, err := a.sockets(a.server.HandOver)
	if err != nil {
		return admin.Handover{}, err
	}
	next, err := handover.Start(a.handing.command, sockets)
	closeAll(sockets) // the new process has duplicates
	if err != nil {
		a.server.Reclaim()
		return admin.Handover{}, err
	}
	stop := context.AfterFunc(a.handing.ctx, next.Kill) // who stops this process doesn't want another one
	defer stop()
	if err := a.passState(next, time.Now().Add(limit)); err != nil {
		return admin.Handover{}, err
	}
	a.passOn(next)
	return admin.Handover{Version: next.Version, PID: next.PID, Old: os.Getpid()}, nil
}

// passState waits for the new process, and leaves it the durable state. After an
// error the new process has ended, and the state is this one's.
func (a *App) passState(next *handover.Successor, by time.Time) error {
	a.log.WithFields(logrus.Fields{"component": "handover", "pid": next.PID, "path": a.handing.command.Path}).Info("a new process was started, and takes over when it is ready")
	if err := next.Prepared(by); err != nil {
		next.End()
		a.server.Reclaim()
		return err
	}
	a.registered.yield()
	err := a.yield()
	if err == nil {
		err = next.Yielded(by)
	}
	if err == nil {
		return nil
	}
	next.End()
	a.server.Reclaim()
	a.registered.resume()
	if back := a.resume(); back != nil {
		a.log.WithError(back).Error("state that was let go for the new process couldn't be taken back: restart the gateway")
	}
	return err
}

// passOn leaves all to a process that serves.
func (a *App) passOn(next *handover.Successor) {
	if err := systemd.Notify("MAINPID=" + strconv.Itoa(next.PID)); err != nil {
		a.log.WithError(err).Warn("systemd wasn't told which process is the main one now")
	}
	a.server.PassedOn()
	a.admin.Leave()
	a.handing.next.Store(int64(next.PID))
	next.Released()
}

// passedOn reports whether another process has taken over.
func (a *App) passedOn() bool { return a.handing.next.Load() != 0 }

// lateSignals handles what comes after the gateway has begun to end. What was
// meant for the gateway goes to the process that it is now.
func (a *App) lateSignals(ch <-chan os.Signal) {
	for s := range ch {
		next := int(a.handing.next.Load())
		if s == syscall.SIGUSR1 {
			a.reopenLogs()
		}
		if next == 0 {
			a.log.WithField("signal", s.String()).Warn("the gateway is stopping: the signal does nothing")
			continue
		}
		if n, ok := s.(syscall.Signal); ok && syscall.Kill(next, n) == nil {
			a.log.WithFields(logrus.Fields{"signal": s.String(), "pid": next}).Info("the signal was passed on to the process that has taken over")
		}
	}
}
