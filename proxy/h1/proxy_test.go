package h1

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func get(tb testing.TB, c *http.Client, url string) (*http.Response, string) {
	tb.Helper()
	res, err := c.Get(url)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res, string(b)
}

func newClient(tb testing.TB) *http.Client {
	tr := &http.Transport{DisableCompression: true}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestKeepAlive(t *testing.T) {
	b := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s %v", r.Method, r.Host, r.RequestURI, r.Header["X-A"])
	}))
	addr, h := proxy(t, b, nil)
	c := newClient(t)
	for i := range 20 {
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://%s/p/%d?q=%d", addr, i, i), nil)
		req.Header.Set("X-A", "1")
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if want := fmt.Sprintf("GET %s /p/%d?q=%d [1]", addr, i, i); string(got) != want {
			t.Fatalf("body = %q, want %q", got, want)
		}
	}
	if h.dials != 1 {
		t.Errorf("%d connections to the backend, want 1", h.dials)
	}
	req, _ := http.NewRequest("POST", "http://"+addr+"/x", strings.NewReader("abc"))
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}
