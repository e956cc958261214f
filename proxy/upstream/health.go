package upstream

import (
	"context"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// checkState is what active checks say of an instance. Until the first result
// it counts as good; the first result decides alone, later ones must come
// several in a row to turn it.
//
//	unknown ──good──▶ passing ──fall bad ones──▶ failing
//	   └──────bad──────────────────────────────▶    │
//	                     ▲──────rise good ones──────┘
type checkState struct {
	state checkResult
	inRow int    // results in a row that speak against the state
	err   string // of the last result
	next  int64  // when the next check is due
	busy  bool   // one is under way
}

type checkResult uint8

const (
	checkUnknown checkResult = iota
	checkPassing
	checkFailing
)

func (r checkResult) String() string {
	switch r {
	case checkPassing:
		return "passing"
	case checkFailing:
		return "failing"
	default:
		return "unknown"
	}
}

// take moves the state on, and reports whether it turned.
func (c *checkState) take(err error, h *HealthCheckConfig) bool {
	c.err = ""
	to, needed := checkPassing, h.Rise
	if err != nil {
		c.err, to, needed = err.Error(), checkFailing, h.Fall
	}
	if c.state == to {
		c.inRow = 0
		return false
	}
	c.inRow++
	if c.state != checkUnknown && c.inRow < needed {
		return false
	}
	c.state, c.inRow = to, 0
	return true
}

const (
	// checksAtOnce bounds the checks of a pool that run at a time.
	checksAtOnce = 16
	checkJitter  = 0.1
)

// checks is a pool's running checker.
type checks struct{ stop context.CancelFunc }

func (c *checks) end() {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
}

// restartChecks starts, ends or replaces the checker as the settings say. What
// was found out stays, unless the checks are gone. p.mu is held.
func (p *Pool) restartChecks(was, s *settings) {
	if was != nil && p.checks.stop != nil && reflect.DeepEqual(was.cfg.HealthCheck, s.cfg.HealthCheck) && was.route == s.route && was.fleet == s.fleet {
		return
	}
	p.checks.end()
	if s.cfg.HealthCheck == nil {
		for _, in := range p.order {
			in.check = checkState{}
		}
		return
	}
	h := *s.cfg.HealthCheck
	h.Interval, h.Timeout = max(h.Interval, 10*time.Millisecond), max(h.Timeout, 10*time.Millisecond)
	h.Rise, h.Fall = max(h.Rise, 1), max(h.Fall, 1)
	c := &checker{p: p, s: s, h: h, slots: make(chan struct{}, checksAtOnce)}
	ctx, stop := context.WithCancel(p.g.ctx)
	p.checks.stop = stop
	p.g.running.Add(1)
	go c.run(ctx)
}

// checker asks the instances of a pool how they are.
type checker struct {
	p     *Pool
	s     *settings
	h     HealthCheckConfig
	slots chan struct{}
	busy  sync.WaitGroup
}

// run checks until ctx ends, and waits for the checks under way.
func (c *checker) run(ctx context.Context) {
	defer c.p.g.running.Done()
	defer c.busy.Wait()
	// Looking for who is due is cheap; this bounds how late a check may be.
	t := time.NewTicker(min(max(c.h.Interval/20, 5*time.Millisecond), 250*time.Millisecond))
	defer t.Stop()
	for {
		for _, in := range c.due() {
			select {
			case c.slots <- struct{}{}:
			case <-ctx.Done():
				c.p.checked(ctx, in, nil, &c.h)
				continue
			}
			c.busy.Add(1)
			go func() {
				defer c.busy.Done()
				err := c.check(ctx, in)
				<-c.slots
				c.p.checked(ctx, in, err, &c.h)
			}()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// due returns the instances whose check is due.
func (c *checker) due() []*instance {
	now := c.p.g.now()
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	var list []*instance
	for _, in := range c.p.order {
		if in.check.next <= now && !in.check.busy {
			in.check.busy = true
			jitter := 1 + checkJitter*(2*rand.Float64()-1)
			in.check.next = now + int64(float64(c.h.Interval)*jitter)
			list = append(list, in)
		}
	}
	return list
}

// checked takes in the result of a check.
func (p *Pool) checked(ctx context.Context, in *instance, err error, h *HealthCheckConfig) {
	now := p.g.now()
	p.mu.Lock()
	defer p.unlock()
	in.check.busy = false
	if ctx.Err() != nil {
		return // the checker ends: the result may be its doing
	}
	if p.instances[in.addr] != in || p.settings.Load().cfg.HealthCheck == nil {
		return
	}
	turned := in.check.take(err, h)
	if turned {
		fields := logrus.Fields{"instance": in.addr, "check": in.check.state.String()}
		if err != nil {
			fields[logrus.ErrorKey] = err
			p.note(logrus.WarnLevel, fields, "check fails")
		} else {
			p.note(logrus.InfoLevel, fields, "check passes")
		}
	}
	if err == nil && in.check.state == checkPassing && in.ejectedUntil != 0 {
		p.readmit(in, now, "its check passes")
		turned = true
	}
	if turned {
		p.rebuild(now)
	}
}
