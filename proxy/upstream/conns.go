package upstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

const (
	// idleMost bounds the idle connections kept to one instance.
	idleMost = 256
	// idleTime is how long a connection is kept unused.
	idleTime = time.Minute
	// freshTime is how long after its last use a connection isn't looked at
	// before an idempotent request is put on it: the look is a system call, and
	// such a request can be repeated on a new connection anyway.
	freshTime = time.Second
)

// speaker is what the connections of all protocols have.
type speaker interface {
	RoundTrip(x *exchange.Exchange) (exchange.Progress, *exchange.Fault)
	Alive() bool
	Close() error
}

// single is a connection that carries one exchange at a time: HTTP/1.1.
type single interface {
	speaker
	Reusable() bool
}

// shared is a connection that carries many: HTTP/2.
type shared interface {
	speaker
	Reserve() bool
	Ended() error
	Unreserve()
}

// conn is a connection to an instance.
type conn struct {
	speaker
	one  single // or
	many shared

	to   *connections
	plan *connPlan
	name string       // the TLS name that was verified, when it is the request's
	used atomic.Int64 // when it was last used, on the sweeper's scale

	users   atomic.Int32 // exchanges on it; of shared ones only
	retired atomic.Bool  // to be closed when its last user leaves
	closed  atomic.Bool
}

func (c *conn) shut() {
	if c.closed.CompareAndSwap(false, true) {
		c.to.open.Add(-1)
		// Nobody is left who could do anything about it.
		_ = c.Close()
	}
}

// retire closes c as soon as nobody uses it.
func (c *conn) retire() {
	c.retired.Store(true)
	if c.users.Load() == 0 {
		c.shut()
	}
}

// connections are those to one instance: a stack of idle ones, so that those
// that aren't needed grow old, and the shared ones.
type connections struct {
	open  atomic.Int32
	fleet atomic.Bool // the instance wants a certificate of the fleet

	mu      sync.Mutex
	idle    []*conn
	many    []*conn
	dialing *dialing
	gone    bool // the instance is: nothing is kept
}

// dialing is a shared connection being made, which others wait for.
type dialing struct {
	done  chan struct{}
	name  string
	fault *exchange.Fault
}

// take returns an idle connection that fits, or nil. With look, each one is
// asked whether it still lives.
func (cs *connections) take(plan *connPlan, name string, look bool, now int64) *conn {
	for {
		c := cs.pop(plan, name)
		if c == nil {
			return nil
		}
		if (look || now-c.used.Load() > int64(freshTime)) && !c.Alive() {
			c.shut()
			continue
		}
		return c
	}
}

func (cs *connections) pop(plan *connPlan, name string) *conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for i := len(cs.idle) - 1; i >= 0; i-- {
		c := cs.idle[i]
		if c.plan != plan || c.name != name {
			continue
		}
		copy(cs.idle[i:], cs.idle[i+1:])
		cs.idle[len(cs.idle)-1] = nil
		cs.idle = cs.idle[:len(cs.idle)-1]
		return c
	}
	return nil
}

// put takes an idle connection back.
func (cs *connections) put(c *conn, now int64) {
	c.used.Store(now)
	cs.mu.Lock()
	if !cs.gone && !c.retired.Load() && len(cs.idle) < idleMost {
		cs.idle = append(cs.idle, c)
		cs.mu.Unlock()
		return
	}
	cs.mu.Unlock()
	c.shut()
}

// evict closes the connection that was idle the longest.
func (cs *connections) evict() {
	cs.mu.Lock()
	var c *conn
	if len(cs.idle) > 0 {
		c = cs.idle[0]
		cs.idle = slices.Delete(cs.idle, 0, 1)
	}
	cs.mu.Unlock()
	if c != nil {
		c.shut()
	}
}

// join returns a shared connection with room for one more exchange, or nil;
// then d says what to wait for, and with d nil the caller is to make one and
// call joined with what became of it.
func (cs *connections) join(plan *connPlan, name string, most int) (c *conn, d *dialing, full bool) {
	var dead []*conn
	defer func() { retireAll(dead) }() // closing may take time: not under the lock
	cs.mu.Lock()
	defer cs.mu.Unlock()
	fits := 0
	for i := 0; i < len(cs.many); i++ {
		c := cs.many[i]
		if !c.Alive() {
			dead = append(dead, cs.drop(i))
			i--
			continue
		}
		if c.plan != plan || c.name != name {
			continue
		}
		fits++
		if c.many.Reserve() {
			c.users.Add(1)
			return c, nil, false
		}
	}
	if cs.dialing != nil && cs.dialing.name == name {
		return nil, cs.dialing, false
	}
	if fits >= most {
		return nil, nil, true
	}
	if cs.dialing == nil {
		cs.dialing = &dialing{done: make(chan struct{}), name: name}
	}
	return nil, nil, false
}

// drop takes shared connection i out. cs.mu is held.
func (cs *connections) drop(i int) *conn {
	c := cs.many[i]
	last := len(cs.many) - 1
	cs.many[i] = cs.many[last]
	cs.many[last] = nil
	cs.many = cs.many[:last]
	return c
}

func retireAll(list []*conn) {
	for _, c := range list {
		c.retire()
	}
}

// joined ends the making of a shared connection; its maker is its first user.
func (cs *connections) joined(c *conn, name string, f *exchange.Fault) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c != nil {
		if cs.gone {
			c.retired.Store(true)
		} else {
			cs.many = append(cs.many, c)
		}
	}
	if d := cs.dialing; d != nil && d.name == name {
		d.fault = f
		close(d.done)
		cs.dialing = nil
	}
}

// leave ends an exchange on a shared connection.
func (c *conn) leave(now int64) {
	c.used.Store(now)
	if c.users.Add(-1) == 0 && c.retired.Load() {
		c.shut()
	}
}

// sweep closes what wasn't used since before.
func (cs *connections) sweep(before int64) {
	cs.mu.Lock()
	if len(cs.idle) == 0 && len(cs.many) == 0 {
		cs.mu.Unlock()
		return
	}
	n := 0
	for n < len(cs.idle) && cs.idle[n].used.Load() < before {
		n++
	}
	var old []*conn
	if n > 0 {
		old = append(old, cs.idle[:n]...)
		kept := copy(cs.idle, cs.idle[n:])
		clear(cs.idle[kept:])
		cs.idle = cs.idle[:kept]
	}
	for i := 0; i < len(cs.many); i++ {
		c := cs.many[i]
		if c.users.Load() == 0 && (c.used.Load() < before || !c.Alive()) {
			old = append(old, cs.drop(i))
			i--
		}
	}
	cs.mu.Unlock()
	retireAll(old)
}

// retire closes all connections, the used ones when they are given back.
func (cs *connections) retire() { cs.retireOthers(nil) }

// retireOthers closes the connections that were made in another way than plan;
// without one, all, and those to come are not kept.
func (cs *connections) retireOthers(plan *connPlan) {
	cs.mu.Lock()
	cs.gone = plan == nil
	var old []*conn
	kept := cs.idle[:0]
	for _, c := range cs.idle {
		if plan != nil && c.plan == plan {
			kept = append(kept, c)
		} else {
			old = append(old, c)
		}
	}
	clear(cs.idle[len(kept):])
	cs.idle = kept
	for i := 0; i < len(cs.many); i++ {
		if cs.many[i].plan != plan {
			old = append(old, cs.drop(i))
			i--
		}
	}
	cs.mu.Unlock()
	retireAll(old)
}

// count is how many connections are idle.
func (cs *connections) count() (idle int) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	idle = len(cs.idle)
	for _, c := range cs.many {
		if c.users.Load() == 0 {
			idle++
		}
	}
	return idle
}
