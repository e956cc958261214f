package config

import (
	"bytes"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxNesting bounds how deep brackets, templates and operators nest. The
// parsers recurse, and a stack that overflows can't be recovered.
const maxNesting = 100

// tooDeep finds where nesting goes beyond the bound.
func (d *document) tooDeep() (hcl.Range, bool) {
	if d.isJSON() {
		at := depthOf(d.src, false)
		if at == unclear {
			at = -1 // no string of JSON has a line break: the parser gives up there
		}
		return d.place(at)
	}
	if simple(d.src) {
		if at := depthOf(d.src, true); at != unclear {
			return d.place(at)
		}
	}
	return d.tooDeepTokens()
}

// unclear is the depth of a text with a string that doesn't end in its line:
// where it ends is the lexer's to say.
const unclear = -2

// simple reports whether the text has no templates and no heredocs.
// Strings are strings then; lexing such a text costs as much as parsing it.
func simple(src []byte) bool {
	for _, s := range []string{"${", "%{", "<<"} {
		if bytes.Contains(src, []byte(s)) {
			return false
		}
	}
	return true
}

// depthOf returns the offset at which src nests too deep, -1 or unclear.
func depthOf(src []byte, native bool) int {
	depth, signs, choices := 0, 0, 0
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c == '"':
			i = skipString(src, i)
			if i == len(src) || src[i] != '"' {
				return unclear
			}
		case native && (c == '#' || c == '/' && i+1 < len(src) && src[i+1] == '/'):
			n := bytes.IndexByte(src[i:], '\n')
			if n < 0 {
				return -1
			}
			i += n - 1
		case native && c == '/' && i+1 < len(src) && src[i+1] == '*':
			n := bytes.Index(src[i+2:], []byte("*/"))
			if n < 0 {
				return -1
			}
			i += n + 3
		case c == '{' || c == '[' || c == '(':
			depth++
		case c == '}' || c == ']' || c == ')':
			depth--
		case c == '?':
			choices++
		case c == '\n':
			choices = 0
		}
		switch c {
		case '!', '-':
			signs++
		case ' ', '\t', '\r', '\n':
		default:
			signs = 0
		}
		if depth > maxNesting || signs > maxNesting || choices > maxNesting {
			return i
		}
	}
	return -1
}

// skipString returns the offset of the quote that ends the string at i, or
// where the line or the text ends before it.
func skipString(src []byte, i int) int {
	for i++; i < len(src); i++ {
		switch src[i] {
		case '\\':
			i++
		case '"':
			return i
		case '\n':
			return i
		}
	}
	return len(src)
}

func (d *document) place(at int) (hcl.Range, bool) {
	if at < 0 {
		return hcl.Range{}, false
	}
	p := hcl.Pos{Line: 1 + bytes.Count(d.src[:at], []byte("\n")), Column: at - bytes.LastIndexByte(d.src[:at], '\n'), Byte: at}
	end := p
	end.Column++
	end.Byte++
	return hcl.Range{Filename: d.name, Start: p, End: end}, true
}

// tooDeepTokens asks the lexer, which doesn't recurse. What it finds wrong the
// parser finds again.
func (d *document) tooDeepTokens() (hcl.Range, bool) {
	tokens, _ := hclsyntax.LexConfig(d.src, d.name, hcl.InitialPos)
	depth, signs, choices := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote,
			hclsyntax.TokenOHeredoc, hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote,
			hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenQuestion:
			choices++
		case hclsyntax.TokenNewline:
			choices = 0
		}
		switch t.Type {
		case hclsyntax.TokenBang, hclsyntax.TokenMinus:
			signs++
		default:
			signs = 0
		}
		if depth > maxNesting || signs > maxNesting || choices > maxNesting {
			return t.Range, true
		}
	}
	return hcl.Range{}, false
}
