package e2e

import (
	"errors"
	"syscall"
	"testing"
)

// TestHandoverUnderLoad: process after process takes over, and not one request is
// lost on any protocol.
func TestHandoverUnderLoad(t *testing.T) {
	h := newHeir(t, backendBlock(echoes(t).URL)).begin(t)
	first := h.serving()
	l := h.attack(2)
	for n := range rounds(t) {
		if n%2 == 0 {
			h.usr2(t)
			continue
		}
		if out, code := h.handover(t); code != 0 {
			t.Fatalf("handover %d ended in %d: %s", n, code, out)
		}
	}
	l.end(t)
	eventually(t, "the first process ends", func() error {
		if err := syscall.Kill(first, 0); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
}
