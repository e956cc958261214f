package consul

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestAgentStore: what a fleet writes, and that a lock is one gateway's alone.
func TestAgentStore(t *testing.T) {
	a := newAgent(t, false, "")
	stores := make([]*Store, 2)
	for i := range stores {
		var err error
		if stores[i], err = newClient(t, a.address(), "").Store("sidegate/tls/"); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := stores[0].Get(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of a missing key = %v, want fs.ErrNotExist", err)
	}
	for _, key := range []string{"certificates/a", "certificates/b", "other"} {
		if err := stores[0].Put(ctx, key, []byte("value of "+key)); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := stores[1].Get(ctx, "certificates/a"); err != nil || string(v) != "value of certificates/a" {
		t.Errorf("Get = %q, %v", v, err)
	}
	keys, err := stores[1].List(ctx, "certificates/")
	if want := []string{"certificates/a", "certificates/b"}; err != nil || !slices.Equal(keys, want) {
		t.Errorf("List = %v, %v; want %v", keys, err, want)
	}
	for range 2 {
		if err := stores[1].Delete(ctx, "other"); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}

	// Check-and-set: of two nodes that read the same, one writes.
	if _, index, err := stores[0].Load(ctx, "counter"); !errors.Is(err, fs.ErrNotExist) || index != 0 {
		t.Errorf("Load of a missing key = %d, %v", index, err)
	}
	for i, value := range []string{"first", "second"} {
		_, index, _ := stores[0].Load(ctx, "counter")
		if ok, err := stores[0].Swap(ctx, "counter", []byte(value), index); !ok || err != nil {
			t.Errorf("Swap %d = %v, %v", i, ok, err)
		}
		if ok, err := stores[1].Swap(ctx, "counter", []byte("late"), index); ok || err != nil {
			t.Errorf("Swap %d of what has changed = %v, %v", i, ok, err)
		}
		if v, _, err := stores[1].Load(ctx, "counter"); err != nil || string(v) != value {
			t.Errorf("Load = %q, %v", v, err)
		}
	}

	lost, unlock, err := stores[0].Lock(ctx, "locks/x")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		_, unlock, err := stores[1].Lock(ctx, "locks/x")
		if err == nil {
			err = unlock()
		}
		got <- err
	}()
	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if _, _, err := stores[1].Lock(short, "locks/x"); err == nil {
		t.Error("a lock is held twice")
	}
	select {
	case <-got:
		t.Error("a lock that is held was given to another")
	case <-lost:
		t.Error("the lock was lost")
	default:
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("the second holder: %v", err)
	}
}

// TestAgentChange: changes of several writers at once are all there, and one that
// fails changes nothing.
func TestAgentChange(t *testing.T) {
	a := newAgent(t, false, "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stores [4]*Store
	for i := range stores {
		var err error
		if stores[i], err = newClient(t, a.address(), "").Store("sidegate-keys/"); err != nil {
			t.Fatal(err)
		}
	}
	const each = 10
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			for range each {
				err := s.Change(ctx, "n", func(value []byte) ([]byte, error) {
					n, _ := strconv.Atoi(string(value)) // nothing is 0
					return strconv.AppendInt(nil, int64(n+1), 10), nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if v, err := stores[0].Get(ctx, "n"); err != nil || string(v) != "40" {
		t.Errorf("%q, %v, want 40", v, err)
	}
	want := errors.New("no")
	if err := stores[0].Change(ctx, "n", func([]byte) ([]byte, error) { return nil, want }); err != want {
		t.Errorf("Change = %v, want the function's error", err)
	}
	for range 2 { // there, and not there
		if err := stores[0].Change(ctx, "n", func([]byte) ([]byte, error) { return nil, nil }); err != nil {
			t.Error(err)
		}
	}
	if _, err := stores[0].Get(ctx, "n"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of a removed key = %v", err)
	}
}
