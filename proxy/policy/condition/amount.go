package condition

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// MaxAmount is the largest amount, in millionths: a billion.
const MaxAmount = 1_000_000_000 * 1_000_000

// Sizes are how large the messages of an exchange are, in bytes of content.
type Sizes struct{ In, Out int64 }

// Amount is Compile for an expression over request and response whose value is a
// number that isn't less than 0.
func (c *Compiler) Amount(text string) (*Program, error) {
	env, err := c.answer()
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	return compile(env, "expression", text, "it must be a number", cel.IntType, cel.UintType, cel.DoubleType, cel.DynType)
}

// Answered is Compile for a condition that may ask for the response, too.
func (c *Compiler) Answered(text string) (*Program, error) {
	env, err := c.answer()
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	return compile(env, "condition", text, "it must be true or false", cel.BoolType)
}

// ReadsResponse reports whether the value depends on the response.
func (p *Program) ReadsResponse() bool { return p.resp }

// ReadsSizes reports whether the value depends on how large the messages are, which
// nobody knows before the end of the response.
func (p *Program) ReadsSizes() bool { return p.size }

// Amount is the value of an expression that Amount compiled, in millionths, rounded.
// What is negative, no number, or more than MaxAmount is an error.
func (p *Program) Amount(x *exchange.Exchange, s Sizes) (int64, error) {
	val, err := p.answered(x, s)
	if err != nil {
		return 0, err
	}
	var f float64
	switch v := val.(type) {
	case types.Int:
		if v >= 0 && v <= MaxAmount/1_000_000 {
			return int64(v) * 1_000_000, nil
		}
		f = float64(v)
	case types.Uint:
		if v <= MaxAmount/1_000_000 {
			return int64(v) * 1_000_000, nil
		}
		f = float64(v)
	case types.Double:
		f = float64(v)
	default:
		return 0, fmt.Errorf("gave a %s, not a number", val.Type())
	}
	switch n := math.Round(f * 1_000_000); {
	case math.IsNaN(n):
		return 0, errors.New("gave no number")
	case n < 0:
		return 0, fmt.Errorf("gave %g, which is less than 0", f)
	case n > MaxAmount:
		return 0, fmt.Errorf("gave %g, which is more than %d", f, int64(MaxAmount/1_000_000))
	default:
		return int64(n), nil
	}
}

// Holds is Eval for a condition that Answered compiled.
func (p *Program) Holds(x *exchange.Exchange, s Sizes) bool {
	val, err := p.answered(x, s)
	return err == nil && val == types.True
}

func (p *Program) answered(x *exchange.Exchange, s Sizes) (ref.Val, error) {
	a := p.pool.Get().(*activation)
	a.set(x)
	a.sizes = s
	val, _, err := p.prg.Eval(a)
	a.set(nil)
	a.answer = textMap{}
	p.pool.Put(a)
	if err != nil {
		return nil, errors.New(strings.Clone(err.Error()))
	}
	return val, nil
}

// findAnswer and allAnswer are findHeader and allHeaders of the response.
func findAnswer(x *exchange.Exchange, key string) (string, bool) {
	value, found := "", false
	id := exchange.Lookup(key)
	for i := range x.Response.Len() {
		name, v := x.Response.Field(i)
		if x.Response.ID(i) != id || id == exchange.Other && !exchange.EqualFold(name, key) {
			continue
		}
		if found {
			value += separator(id) + v
		} else {
			value, found = v, true
		}
	}
	return value, found
}

func allAnswer(x *exchange.Exchange) map[string]string {
	all := make(map[string]string, x.Response.Len())
	for i := range x.Response.Len() {
		name, v := x.Response.Field(i)
		name = strings.ToLower(name)
		if before, ok := all[name]; ok {
			v = before + separator(x.Response.ID(i)) + v
		}
		all[name] = v
	}
	return all
}
