package policytest

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type inner struct {
	Path string `hcl:"path,attr" default:"/x"`
}

type everything struct {
	Name   string            `hcl:"name,label"`
	Text   string            `hcl:"text,attr" required:"true"`
	On     bool              `hcl:"on,attr" default:"true"`
	Number int               `hcl:"number,attr" default:"3"`
	Share  float64           `hcl:"share,attr" default:"0.5"`
	Wait   time.Duration     `hcl:"wait,attr" default:"2s"`
	Size   int64             `hcl:"size,attr" unit:"bytes" default:"2KiB"`
	List   []string          `hcl:"list,attr" default:"[\"a\"]"`
	Codes  []int             `hcl:"codes,attr"`
	Map    map[string]string `hcl:"map,attr"`
	Weight map[string]int    `hcl:"weight,attr"`
	Nets   []netip.Prefix    `hcl:"nets,attr"`
	One    *inner            `hcl:"one,block"`
	Many   []inner           `hcl:"many,block"`
}

func TestDecode(t *testing.T) {
	tests := []struct {
		in   string
		want everything
		err  string
	}{
		{in: `e "a" { text = "t" }`, want: everything{Name: "a", Text: "t", On: true, Number: 3, Share: .5, Wait: 2 * time.Second, Size: 2048, List: []string{"a"}}},
		{in: `e "a" {
			text   = "t"
			on     = false
			number = 4
			share  = 1
			wait   = "1m"
			size   = "3MiB"
			list   = ["b", "c"]
			codes  = [1, 2]
			map    = { "A" = "b" }
			weight = { a = 1 }
			nets   = ["10.0.0.0/8"]
			one {}
			many { path = "/1" }
			many { path = "/2" }
		}`, want: everything{
			Name: "a", Text: "t", Number: 4, Share: 1, Wait: time.Minute, Size: 3 << 20, List: []string{"b", "c"}, Codes: []int{1, 2},
			Map: map[string]string{"A": "b"}, Weight: map[string]int{"a": 1}, Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, One: &inner{"/x"}, Many: []inner{{"/1"}, {"/2"}},
		}},
		{in: `e "a" {}`, err: "text: must be given"},
		{in: `e { text = "t" }`, err: "lacks its label"},
		{in: `e "a" "b" { text = "t" }`, err: `label "b" is one too many`},
		{in: "e \"a\" {\n text = \"t\"\n txet = 1\n}", err: `unknown argument "txet"`},
		{in: "e \"a\" {\n text = \"t\"\n two {}\n}", err: `unknown block "two"`},
		{in: "e \"a\" {\n text = \"t\"\n one {}\n one {}\n}", err: `block "one" is given twice`},
		{in: "e \"a\" {\n text = \"t\"\n number = \"x\"\n}", err: `number`},
		{in: "e \"a\" {\n text = \"t\"\n size = \"10\"\n}", err: `isn't a size`},
	}
	for _, tt := range tests {
		var got everything
		err := decode(parse(t, tt.in)[0], &got)
		if err != nil || tt.err != "" {
			if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("decode(%s) = %v, want %q", tt.in, err, tt.err)
			}
			continue
		}
		if d := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
			t.Errorf("decode(%s): %s", tt.in, d)
		}
	}
}

func TestSnippets(t *testing.T) {
	got := Snippets("a\n```hcl\nx {}\n```\nb\n```sh\nls\n```\n```hcl\ny {}\n```\n")
	if d := cmp.Diff([]string{"x {}\n", "y {}\n"}, got); d != "" {
		t.Error(d)
	}
}
