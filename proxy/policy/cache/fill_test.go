package cache

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/policy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// TestPasses: of an answer that turns out too large to be stored, all who joined get
// all, with one request; what is kept for them is bounded, and who stands still is
// broken off.
func TestPasses(t *testing.T) {
	const waiters, size = 200, 5 << 20
	s := NewStore(StoreConfig{})
	p := newPolicy(t, s, `wait = "1m"`)
	body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	const line = "GET https://api.example.com/a"
	x := policytest.Exchange(t, line)
	x.Start = time.Now()
	if v, err := p.Request(x); v != policy.Next || err != nil {
		t.Fatal(v, err)
	}
	x.Tries = 1
	policytest.Answer(x, 200, "", "Cache-Control: max-age=100")
	r, w := io.Pipe()
	x.ResponseBody, x.ResponseLength = pipe{r, r}, -1
	if err := p.Response(x); err != nil {
		t.Fatal(err)
	}
	var joined, done sync.WaitGroup
	read := func(b io.Reader) error {
		got, err := io.ReadAll(b)
		if err == nil && !bytes.Equal(got, body) {
			err = fmt.Errorf("%d other bytes", len(got))
		}
		return err
	}
	joined.Add(waiters)
	for range waiters {
		done.Go(func() {
			w := policytest.Exchange(t, line)
			w.Start = time.Now()
			v, err := p.Request(w)
			joined.Done()
			if v != policy.Done || err != nil {
				t.Error(v, err)
				return
			}
			if err := read(w.ResponseBody); err != nil {
				t.Error(err)
			}
			_ = w.ResponseBody.Close()
			p.Finish(w)
		})
	}
	joined.Wait()
	done.Go(func() {
		_, _ = w.Write(body)
		_ = w.Close()
	})
	if err := read(x.ResponseBody); err != nil {
		t.Error(err)
	}
	_ = x.ResponseBody.Close()
	p.Finish(x)
	done.Wait()
	if n := s.flying.Load(); n != 0 {
		t.Errorf("%d bytes are still on their way", n)
	}
	if _, hit := answer(t, p, line, "new"); hit {
		t.Error("it is stored")
	}
}
