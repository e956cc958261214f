package condition

import "testing"

// FuzzCondition: no expression panics, when it is compiled or evaluated, and an
// evaluation gives the same twice.
func FuzzCondition(f *testing.F) {
	for _, s := range []string{
		"request.method == 'GET'", "request.headers['x'].startsWith('a') && request.query.exists(k, k == 'flag')",
		"cidr('10.0.0.0/8').containsIP(request.client_ip)", "claims.a.b[0] == 1", "request.path.split('/')[1] == 'a'",
		"[1, 2].map(x, x * 2).exists(y, y == 4)", "'a'.matches('(')", "1/0 == 1", "request.path.replace('/', '', -1) != ''",
	} {
		f.Add(s)
	}
	c, err := NewCompiler()
	if err != nil {
		f.Fatal(err)
	}
	x := testExchange(f)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := c.Compile(text)
		if err != nil {
			return
		}
		if a, b := p.Eval(x), p.Eval(x); a != b {
			t.Errorf("%q is %v, then %v", text, a, b)
		}
	})
}
