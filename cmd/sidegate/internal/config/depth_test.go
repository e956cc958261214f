package config

import (
	"strings"
	"testing"
)

// TestDepth compares the scan of simple texts with the lexer.
func TestDepth(t *testing.T) {
	deep := strings.Repeat("[", maxNesting+1)
	for _, tt := range []struct {
		name, src string
		want      bool
	}{
		{"flat", strings.Repeat("a = [1]\n", 1000), false},
		{"deep", "a = " + deep, true},
		{"in a string", `a = "` + deep + `"`, false},
		{"behind a quote in a string", `a = ["\"", ` + deep, true},
		{"behind a backslash in a string", `a = ["\\", ` + deep, true},
		{"closers in strings", "a = " + strings.Repeat(`["]", `, maxNesting+1), true},
		{"in a comment", "# " + deep + "\n// " + deep + "\n/* " + deep + "\n" + deep + "*/", false},
		{"closers in comments", "a = " + strings.Repeat("[ # ]\n", maxNesting+1), true},
		{"closers in long comments", "a = " + strings.Repeat("[ /* ] */", maxNesting+1), true},
		{"comment in a string", `a = ["/*", "//", "#", ` + deep, true},
		{"string in a comment", "# \"\na = " + deep, true},
		{"a string that goes on", "a = \"x\nb = " + deep, false},
		{"a string that ends late", "a = \"x\n\" + " + deep, true},
		{"signs", "a = " + strings.Repeat("! ", maxNesting+1), true},
		{"choices", "a = " + strings.Repeat("true ? true : ", maxNesting+1), true},
		{"subtractions", strings.Repeat("a = 1 - 1\n", 1000), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &document{name: "a.hcl", src: []byte(tt.src)}
			if !simple(d.src) {
				t.Fatal("it isn't simple")
			}
			_, got := d.tooDeep()
			_, lexer := d.tooDeepTokens()
			if got != tt.want || lexer != tt.want {
				t.Errorf("tooDeep = %v, by the lexer %v, want %v", got, lexer, tt.want)
			}
		})
	}
}
