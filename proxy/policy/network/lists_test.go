package network

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"
)

func TestLists(t *testing.T) {
	var l Lists
	a := netip.MustParseAddr("192.0.2.1")
	first, err := l.Read("deny", []byte("192.0.2.0/24\n"))
	if err != nil || !first.Has(a) {
		t.Fatalf("Read = %v, %v", first, err)
	}
	if again, err := l.Read("deny", []byte("192.0.2.0/24\n")); again != first || err != nil {
		t.Errorf("read twice: %v", err)
	}
	other, err := l.Read("other", []byte("nonsense\n192.0.2.1 x\n300.1.1.1\n"))
	if err == nil || !strings.Contains(err.Error(), `line 1: "nonsense"`) || !strings.Contains(err.Error(), "line 3: ") || !other.Has(a) || other.Len() != 1 {
		t.Errorf("a list with wrong lines: %d networks, %v", other.Len(), err)
	}
	if _, again := l.Read("other", []byte("nonsense\n192.0.2.1 x\n300.1.1.1\n")); again == nil {
		t.Error("the second time nothing is wrong with it")
	}
	if changed, err := l.Read("deny", []byte("198.51.100.0/24\n")); err != nil || changed.Has(a) {
		t.Errorf("changed: %v", err)
	}
	runtime.KeepAlive(first)
	runtime.KeepAlive(other)
}
