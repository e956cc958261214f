package openapi

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sidegate-proxy/sidegate/proxy/policy/policytest"
)

// FuzzRead: whatever a description says, reading it ends, and one that is taken
// can be gone by.
func FuzzRead(f *testing.F) {
	example, err := os.ReadFile("../../../packaging/examples/orders.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte("openapi: 3.0.3\nservers: [{url: '/{v}', variables: {v: {default: x}}}]\npaths: {'/{a}.{b}': {get: {parameters: [{$ref: '#/components/parameters/a'}]}}}\n"))
	f.Add([]byte(`{"openapi":"3.1.0","paths":{"/orders":{"post":{"requestBody":{"content":{"multipart/form-data":{"schema":{"$ref":"#/components/schemas/a"},"encoding":{"f":{"contentType":"image/*"}}}}}}}},"components":{"schemas":{"a":{"allOf":[{"$ref":"#/components/schemas/a"}],"oneOf":[{"pattern":"^[^]\\u0041\\p{L}$"}]}}}}`))
	dir, err := os.MkdirTemp("", "openapi")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "api.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := Read(nil, path)
		if err != nil {
			if a != nil || err.Error() == "" {
				t.Errorf("an error and an API: %v", err)
			}
			return
		}
		for _, method := range []string{"GET", "POST"} {
			x := policytest.Exchange(t, method+" http://x/orders?limit=1&status=a&filter[a]=b", "Content-Type: application/json", "Cookie: a=b", "X-A: 1,2")
			c := NewCheck()
			item := a.Find(c, x.Target.Path)
			if item == nil {
				continue
			}
			o := item.Operation(method)
			if o == nil {
				continue
			}
			o.Parameters(a, c, x)
			if content, v := o.Content(x, true); v == Readable {
				c.Body(content, `{"a":[1,{"b":null}]}`)
			}
			if content, ok := o.Response(c, 200, "application/json"); ok {
				c.Answer(content, `[{}]`)
			}
		}
	})
}
