package h2

import (
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/sweep"
)

// TestLateTurn gives a stream the turn and takes the window away before it can
// use it: it must wait, and go on when the window opens again.
func TestLateTurn(t *testing.T) {
	noLeaks(t)
	nc := newScript(nil)
	l := &link{}
	l.init(nc, &pools{}, sweep.New(), func() {})
	var s lane
	s.open(l, 1)
	l.mu.Lock()
	l.join(&s)
	l.grant()
	l.sendWindow = 0
	l.mu.Unlock()
	sent := make(chan error)
	go func() {
		l.mu.Lock()
		err := s.send([]byte("x"), true)
		l.flush()
		sent <- err
	}()
	until(t, "the stream waits", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return s.sendSince != 0
	})
	l.mu.Lock()
	l.sendWindow = 10
	l.grant()
	l.mu.Unlock()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	checkFrames(t, nc.out)
	if l.first != nil {
		t.Error("the stream is still in line")
	}
}

// TestLine lets streams send in turn, a frame each.
func TestLine(t *testing.T) {
	l := &link{}
	l.init(newScript(nil), &pools{}, sweep.New(), func() {})
	var lanes [4]lane
	for i := range lanes {
		lanes[i].open(l, uint32(2*i+1))
		l.join(&lanes[i])
	}
	l.leave(&lanes[2])
	l.leave(&lanes[3])
	l.join(&lanes[3])
	l.leave(&lanes[0])
	for _, want := range []uint32{3, 7} {
		if l.first == nil || l.first.id != want || !l.first.turn {
			t.Fatalf("first in line is %v, want stream %d with the turn", l.first, want)
		}
		l.leave(l.first)
	}
	if l.first != nil || l.last != nil {
		t.Error("somebody is left in line")
	}
}
