package h2

import "testing"

// TestHeadTellsLength: fronts of other protocols write what ResponseLength says.
func TestHeadTellsLength(t *testing.T) {
	noLeaks(t)
	for _, tt := range []struct {
		fields []string
		want   int64
	}{{[]string{":status", "200", "content-length", "1234"}, 1234}, {[]string{":status", "200"}, -1}} {
		p, c := fake(t, &ClientConfig{})
		go func() { p.headers(p.awaitRequest(), true, tt.fields...) }()
		x := newExchange("HEAD", "/")
		if _, f, _ := trip(c, x); f != nil || x.ResponseLength != tt.want || x.ResponseBody != nil {
			t.Errorf("HEAD answered with %v: length %d, body %v, %v; want %d", tt.fields, x.ResponseLength, x.ResponseBody, f, tt.want)
		}
	}
}

// TestOddResponseFields: names with _ or . are only a danger in requests.
func TestOddResponseFields(t *testing.T) {
	noLeaks(t)
	p, c := fake(t, &ClientConfig{})
	go func() {
		p.headers(p.awaitRequest(), true, ":status", "200", "x_custom", "1", "x.y", "2")
	}()
	x := newExchange("GET", "/")
	if _, f, _ := trip(c, x); f != nil {
		t.Fatal(f)
	}
	for i := range x.Response.Len() {
		if name, _ := x.Response.Field(i); x.Response.Dropped(i) {
			t.Errorf("%s was dropped", name)
		}
	}
}
