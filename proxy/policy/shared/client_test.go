package shared

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
)

func TestAnswers(t *testing.T) {
	for in, want := range map[string]string{
		"+OK\r\n":                                "[] <nil>",
		":42\r\n":                                "[42] <nil>",
		"*2\r\n:1\r\n:-7\r\n":                    "[1 -7] <nil>",
		"*0\r\n":                                 "[] <nil>",
		"-NOSCRIPT no\r\n":                       "[] redis: NOSCRIPT no",
		"*2\r\n:1\r\n":                           "[] EOF",
		"*2\r\n:1\r\n$1\r\na\r\n":                "[] '$' in an array of numbers",
		"*65\r\n":                                "[] an array of \"65\"",
		"*-1\r\n":                                "[] an array of \"-1\"",
		"*999999999999\r\n":                      "[] an array of \"999999999999\"",
		"$-1\r\n":                                "[] an answer of the kind '$'",
		"+OK\n":                                  "[] a line without its end",
		"\r\n":                                   "[] a line without its end",
		"":                                       "[] EOF",
		"-" + strings.Repeat("x", 5000) + "\r\n": "[] bufio: buffer full",
	} {
		list, err := readAnswer(bufio.NewReader(strings.NewReader(in)))
		if got := fmt.Sprint(list, " ", err); got != want {
			t.Errorf("%.30q: %s, want %s", in, got, want)
		}
	}
	if !isError(fmt.Errorf("a: %w", refusal("NOSCRIPT x")), "NOSCRIPT") || isError(refusal("ERR NOSCRIPT"), "NOSCRIPT") {
		t.Error("isError")
	}
}

// FuzzAnswer: whatever a server says, reading it ends.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"+OK\r\n", "*2\r\n:1\r\n:2\r\n", "-ERR x\r\n", ":9223372036854775807\r\n", "*64\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if list, err := readAnswer(bufio.NewReader(strings.NewReader(in))); err != nil && list != nil && len(list) > 1 {
			t.Errorf("%q: %v with %v", in, list, err)
		}
	})
}
