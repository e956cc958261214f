package consul

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestStoresDuringReads: a store may be made while the agent is being asked; run
// it with -race.
func TestStoresDuringReads(t *testing.T) {
	f := startFake(t)
	f.failWith(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/kv/") {
			w.Header().Set("X-Consul-Index", "0") // to be asked again and again
			fmt.Fprint(w, `[{"Key":"p/k","Value":""}]`)
			return true
		}
		return false
	})
	c := newClient(t, f.URL, "")
	k := watchKV(t, c, "p/")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				if _, err := c.Store("p/"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "a read", k.is(map[string]string{"p/k": ""}))
}

// TestKVOfThePast: what a server says that lags behind the one before isn't
// believed; a consistent read is.
func TestKVOfThePast(t *testing.T) {
	f := startFake(t)
	var past, consistent atomic.Int64
	f.failWith(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v1/kv/") {
			return false
		}
		q := r.URL.Query()
		index, value := "20", "now"
		switch {
		case q.Get("index") == "20" && past.Add(1) == 1:
			index, value = "15", "past"
		case q.Get("index") == "20":
			<-r.Context().Done() // nothing changes any more
			return true
		case q.Has("consistent"):
			consistent.Add(1)
			index, value = "20", "later"
		}
		w.Header().Set("X-Consul-Index", index)
		w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
		fmt.Fprintf(w, `[{"Key":"p/k","Value":%q}]`, base64.StdEncoding.EncodeToString([]byte(value)))
		return true
	})
	k := watchKV(t, newClient(t, f.URL, ""), "p/")
	eventually(t, "the consistent read", k.is(map[string]string{"p/k": "later"}))
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, m := range k.all {
		if string(m["p/k"]) == "past" {
			t.Error("what was of the past was reported")
		}
	}
	if past.Load() < 1 || consistent.Load() != 1 || len(k.all) != 2 {
		t.Errorf("%d old answers, %d consistent reads, %d reports; want 1 or 2, 1 and 2", past.Load(), consistent.Load(), len(k.all))
	}
}
