package waf

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"weak"

	crs "github.com/corazawaf/coraza-coreruleset/v4"
	coraza "github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/types"
)

// engine is a set of rules, shared by all blocks that say the same.
type engine struct {
	waf  coraza.WAF
	ids  map[int]bool // of all rules, those that are excluded included
	tags map[string]bool
}

// newEngine makes the rules of a text. It takes some 100 ms, and 20 MB once:
// Coraza shares patterns between those who use the same, until all have closed.
func newEngine(text string) (*engine, error) {
	ids, tags := map[int]bool{}, map[string]bool{}
	// The WAF keeps the function, which so must not have the engine.
	cfg := experimental.WAFConfigWithRuleObserver(coraza.NewWAFConfig(), func(r types.RuleMetadata) {
		ids[r.ID()] = true
		for _, t := range r.Tags() {
			tags[t] = true
		}
	})
	w, err := coraza.NewWAF(cfg.WithRootFS(crs.FS).WithDirectives(text))
	if err != nil {
		return nil, fmt.Errorf("the rules can't be made: %w", plain(err))
	}
	e := &engine{waf: w, ids: ids, tags: tags}
	runtime.AddCleanup(e, closeWAF, w)
	return e, nil
}

// closeWAF lets go of the patterns that w shares with others.
func closeWAF(w coraza.WAF) {
	if c, ok := w.(io.Closer); ok {
		_ = c.Close() // it has nothing to say
	}
}

// check refuses excludes of what there isn't.
func (e *engine) check(list []*ExcludeConfig) error {
	var errs error
	for _, x := range list {
		for _, r := range x.Rules {
			from, to, isID := idRange(r)
			if isID && !e.hasIn(from, to) || !isID && !e.tags[r] {
				errs = errors.Join(errs, fmt.Errorf("exclude: rules: there is no rule with %q", r))
			}
		}
	}
	return errs
}

func (e *engine) hasIn(from, to int) bool {
	for id := range e.ids {
		if id >= from && id <= to {
			return true
		}
	}
	return false
}

// engine returns the engine of a text: the one that somebody has already, else
// a new one. It is kept as long as a policy has it.
func (s *Store) engine(text string) (*engine, error) {
	s.once.Do(func() { s.turns = newTurns() })
	s.making.Lock()
	defer s.making.Unlock()
	if e := s.engines[text].Value(); e != nil {
		return e, nil
	}
	e, err := newEngine(text)
	if err != nil {
		return nil, err
	}
	for t, other := range s.engines {
		if other.Value() == nil {
			delete(s.engines, t)
		}
	}
	s.engines[text] = weak.Make(e)
	return e, nil
}
