package route

import (
	"fmt"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// Pattern is a pattern as those of headers and query are: exact, open at its
// ends with *, or ~ and an RE2 expression. It never changes.
type Pattern struct{ v value }

// CompilePattern checks a pattern.
func CompilePattern(text string) (*Pattern, error) {
	v, err := compileValue("", text)
	if err != nil {
		return nil, err
	}
	return &Pattern{v}, nil
}

// Matches reports whether s fits the pattern.
func (p *Pattern) Matches(s string) bool { return p.v.matches(s) }

// Paths are paths as those of routes are. They never change.
type Paths struct{ m *Matcher }

// CompilePaths checks paths. Its error joins one for each that is wrong.
func CompilePaths(paths []string) (*Paths, error) {
	m, err := Compile([]Rule{{Paths: paths}})
	if err != nil {
		return nil, err
	}
	return &Paths{m}, nil
}

// Has reports whether one of them takes the canonical path of x, without
// parameters.
func (p *Paths) Has(x *exchange.Exchange) bool {
	return p.m.any >= 0 && p.m.nextLeaf(uint32(p.m.any), x.Target.WithoutParameters(), -1) >= 0
}

// CheckMethods says what is wrong with methods.
func CheckMethods(methods []string) (err error) {
	compileConditions(&Rule{Methods: methods}, func(_ string, e error) {
		if err == nil {
			err = e
		} else {
			err = fmt.Errorf("%w; %w", err, e)
		}
	})
	return err
}
