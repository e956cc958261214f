package claims

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse: what is taken is what encoding/json takes, and says the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":1,"b":[true,null,"x",{"c":1.5e3}]}`, `{"a":1,"a":2}`, `[]`, `{"a":}`, `{} x`, "{\"\\u0061\":1,\"a\":2}", `{"a":9223372036854775808}`, `{"a":1e999}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text)
		if err != nil {
			return
		}
		var want map[string]any
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("%q is taken, which encoding/json refuses: %v", text, err)
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]any
		if err := json.Unmarshal(again, &back); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, back); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	})
}

func TestParse(t *testing.T) {
	got, err := Parse([]byte(` {"a":1,"b":[true,null,"x",{"c":1.5}],"A":-2} `))
	want := map[string]any{"a": int64(1), "b": []any{true, nil, "x", map[string]any{"c": 1.5}}, "A": int64(-2)}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v: %s", err, d)
	}
	for _, text := range []string{``, `null`, `1`, `"x"`, `[]`, `{`, `{"a":1,"a":1}`, "{\"\\u0061\":1,\"a\":2}", `{"a":{"b":1,"b":1}}`, `{}{}`, `{},`, `{"a":1e999}`, "{\"a\":\"\xff\"}", `{"a" 1}`, `{a:1}`} {
		if got, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q = %v", text, got)
		}
	}
}
