// Package condition compiles the conditions of the configuration, when and
// authorize: CEL expressions over a request and its client, type-checked when
// they are loaded; and those that have a number or a text for a value, which
// limits count by, or a price. It isn't a policy itself.
//
// Variables:
//
//	request.method, request.host, request.path, request.client_ip, request.protocol   string
//	request.query, request.headers      map from string to string
//	request.tls                         bool
//	request.peer                        string; the URI in the client's certificate, "" without one
//	consumer.name, consumer.plan        string; "" without a consumer
//	consumer.labels                     map from string to string
//	claims                              map from string to anything
//
// and, in a price and what it is for, where the answer is there:
//
//	response.status                     int
//	response.headers                    map from string to string
//	response.bytes_in                   int; the content that the client sent
//	response.bytes_out                  int; the content that it gets, before the gateway compresses it
//
// The path is the canonical one. Names of headers are in lower case, and found
// in any case; several fields of one name are joined with ", ". A query
// parameter that comes more than once has its first value. Beside CEL's
// standard functions there are those of its strings and network extensions
// (split, lowerAscii, cidr('10.0.0.0/8').containsIP(request.client_ip)).
//
// Expressions can't loop forever: their text, their depth and the cost of each
// evaluation are bounded. The package starts no goroutine.
package condition

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// The bounds of an expression. A unit of cost is about one operation, or ten
// bytes of a string that is looked at.
const (
	maxText  = 4096
	maxDepth = 64
	maxCost  = 100_000   // of one evaluation, counted
	maxKnown = 1_000_000 // of one that needs no counting: at worst it looks at long strings
)

// Error is a mistake in an expression.
type Error struct {
	Line, Column int // from 1
	Text         string
}

func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Text) }

// Compiler compiles expressions. Making one is dear, so one serves a whole
// configuration.
type Compiler struct {
	env    *cel.Env
	answer func() (*cel.Env, error) // env with the response; made when it is asked for
}

// NewCompiler returns a compiler.
func NewCompiler() (*Compiler, error) {
	texts := cel.MapType(cel.StringType, cel.StringType)
	env, err := cel.NewEnv(
		cel.Variable("request.method", cel.StringType),
		cel.Variable("request.host", cel.StringType),
		cel.Variable("request.path", cel.StringType),
		cel.Variable("request.client_ip", cel.StringType),
		cel.Variable("request.protocol", cel.StringType),
		cel.Variable("request.query", texts),
		cel.Variable("request.headers", texts),
		cel.Variable("request.tls", cel.BoolType),
		cel.Variable("request.peer", cel.StringType),
		cel.Variable("consumer.name", cel.StringType),
		cel.Variable("consumer.plan", cel.StringType),
		cel.Variable("consumer.labels", texts),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserExpressionSizeLimit(maxText),
		ext.Strings(),
		ext.Network(),
	)
	if err != nil {
		return nil, fmt.Errorf("condition: %w", err)
	}
	return &Compiler{env: env, answer: sync.OnceValues(func() (*cel.Env, error) {
		return env.Extend(
			cel.Variable(responseStatus, cel.IntType),
			cel.Variable(responseHeaders, texts),
			cel.Variable(responseIn, cel.IntType),
			cel.Variable(responseOut, cel.IntType),
		)
	})}, nil
}

// The variables of an answer.
const (
	responseStatus  = "response.status"
	responseHeaders = "response.headers"
	responseIn      = "response.bytes_in"
	responseOut     = "response.bytes_out"
)

// Program is a compiled expression. It never changes, and may be used by any
// number of goroutines.
type Program struct {
	text string
	asks bool // for who is calling
	head bool // it reads header fields
	args bool // it reads the query
	resp bool // it reads the response
	size bool // it reads how large the messages are
	prg  cel.Program
	pool sync.Pool // of *activation
}

// Compile compiles one expression with a compiler of its own.
func Compile(text string) (*Program, error) {
	c, err := NewCompiler()
	if err != nil {
		return nil, err
	}
	return c.Compile(text)
}

// Compile checks and compiles a condition. Its error joins an *Error for each
// mistake.
func (c *Compiler) Compile(text string) (*Program, error) {
	return compile(c.env, "condition", text, "it must be true or false", cel.BoolType)
}

// Number is Compile for an expression whose value is a whole number.
func (c *Compiler) Number(text string) (*Program, error) {
	return compile(c.env, "expression", text, "it must be a whole number", cel.IntType, cel.UintType, cel.DynType)
}

// Key is Compile for an expression whose value tells clients apart.
func (c *Compiler) Key(text string) (*Program, error) {
	return compile(c.env, "expression", text, "it must be a text, a whole number, or true or false", cel.StringType, cel.IntType, cel.UintType, cel.BoolType, cel.DynType)
}

// compile is Compile for an expression whose value is of one of the types.
func compile(env *cel.Env, what, text, must string, of ...*cel.Type) (*Program, error) {
	if len(text) > maxText {
		return nil, &Error{Line: 1, Column: 1, Text: fmt.Sprintf("the %s has %d bytes; at most %d are allowed", what, len(text), maxText)}
	}
	if strings.TrimSpace(text) == "" {
		return nil, &Error{Line: 1, Column: 1, Text: fmt.Sprintf("the %s is empty", what)}
	}
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		return nil, mistakes(issues)
	}
	if !slices.ContainsFunc(of, ast.OutputType().IsExactType) {
		return nil, &Error{Line: 1, Column: 1, Text: fmt.Sprintf("the %s is of type %s; %s", what, ast.OutputType(), must)}
	}
	options := []cel.ProgramOption{cel.EvalOptions(cel.OptOptimize)}
	if estimate, err := env.EstimateCost(ast, sizes{}); err != nil || estimate.Max > maxKnown {
		// Counting makes an evaluation five times as dear, so only those are
		// counted that might need it: those that go over maps, usually.
		options = append(options, cel.CostLimit(maxCost))
	}
	prg, err := env.Program(ast, options...)
	if err != nil {
		return nil, &Error{Line: 1, Column: 1, Text: err.Error()}
	}
	p := &Program{text: text, prg: prg}
	for _, r := range ast.NativeRep().ReferenceMap() {
		p.asks = p.asks || r.Name == "claims" || strings.HasPrefix(r.Name, "consumer.")
		p.head = p.head || r.Name == "request.headers"
		p.args = p.args || r.Name == "request.query"
		p.resp = p.resp || strings.HasPrefix(r.Name, "response.")
		p.size = p.size || r.Name == responseIn || r.Name == responseOut
	}
	p.pool.New = func() any { return &activation{} }
	return p, nil
}

// fields are what stands behind the names that aren't values themselves.
func fields(message string) string {
	switch {
	case strings.HasPrefix(message, "undeclared reference to 'request'"):
		return "; request has method, host, path, query, headers, client_ip, protocol and tls"
	case strings.HasPrefix(message, "undeclared reference to 'response'"):
		return "; where there is an answer, it has status, headers, bytes_in and bytes_out"
	case strings.HasPrefix(message, "undeclared reference to 'consumer'"):
		return "; consumer has name, plan and labels"
	default:
		return ""
	}
}

func mistakes(issues *cel.Issues) error {
	var list []error
	for _, e := range issues.Errors() {
		list = append(list, &Error{Line: max(1, e.Location.Line()), Column: max(1, e.Location.Column()+1), Text: e.Message + fields(e.Message)})
	}
	return errors.Join(list...)
}

// String is the expression's text.
func (p *Program) String() string { return p.text }

// AsksWho reports whether the condition asks who is calling, which nobody knows
// before the policy auth.
func (p *Program) AsksWho() bool { return p.asks }

// ReadsHeaders reports whether the condition depends on the request's header
// fields, which a preflight hasn't yet.
func (p *Program) ReadsHeaders() bool { return p.head }

// ReadsQuery reports whether the value depends on the request's query.
func (p *Program) ReadsQuery() bool { return p.args }

// Eval reports whether the condition holds for x. One that can't be evaluated,
// because it asks for a header that isn't there, say, doesn't hold.
func (p *Program) Eval(x *exchange.Exchange) bool {
	holds, err := p.EvalErr(x)
	return holds && err == nil
}

// EvalErr is Eval that says why the condition can't be evaluated.
func (p *Program) EvalErr(x *exchange.Exchange) (bool, error) {
	val, err := p.eval(x)
	if err != nil {
		return false, err
	}
	b, ok := val.(types.Bool)
	if !ok {
		return false, fmt.Errorf("gave a %s, not true or false", val.Type())
	}
	return bool(b), nil
}

// Int is the value of an expression that Number compiled.
func (p *Program) Int(x *exchange.Exchange) (int64, error) {
	val, err := p.eval(x)
	if err != nil {
		return 0, err
	}
	switch v := val.(type) {
	case types.Int:
		return int64(v), nil
	case types.Uint:
		return int64(min(v, math.MaxInt64)), nil
	default:
		return 0, fmt.Errorf("gave a %s, not a whole number", val.Type())
	}
}

// Text is the value of an expression that Key compiled. It may be a view into x.
func (p *Program) Text(x *exchange.Exchange) (string, error) {
	val, err := p.eval(x)
	if err != nil {
		return "", err
	}
	switch v := val.(type) {
	case types.String:
		return string(v), nil
	case types.Int:
		return strconv.FormatInt(int64(v), 10), nil
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10), nil
	case types.Bool:
		return strconv.FormatBool(bool(v)), nil
	default:
		return "", fmt.Errorf("gave a %s, not a text", val.Type())
	}
}

func (p *Program) eval(x *exchange.Exchange) (ref.Val, error) {
	a := p.pool.Get().(*activation)
	a.set(x)
	val, _, err := p.prg.Eval(a)
	a.set(nil)
	p.pool.Put(a)
	if err != nil {
		// The text is a copy: nothing of the exchange's memory stays in it.
		return nil, errors.New(strings.Clone(err.Error()))
	}
	return val, nil
}
