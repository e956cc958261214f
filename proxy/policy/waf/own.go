package waf

import (
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"

	coraza "github.com/corazawaf/coraza/v3"
	"github.com/corazawaf/coraza/v3/experimental"
	"github.com/corazawaf/coraza/v3/types"
)

// directive is one of the rules file, on a line of its own.
type directive struct {
	text string
	line int
}

var (
	// outside are what a rule may not do: run a program, change the process,
	// ask the network or other files.
	outsideAction   = regexp.MustCompile(`(?i)(?:^|["',\s])(exec|setenv|initcol)\s*:`)
	outsideOperator = regexp.MustCompile(`(?i)["\s!]@\s*(inspectFile|rbl|geoLookup|gsbLookup|validateSchema|[a-z]+FromFile)\b`)
)

const (
	// mostMistakes bounds what one error names.
	mostMistakes = 5
	// mostDirective is below the 64 KiB of a line from which on Coraza would
	// silently read no further.
	mostDirective = 32 << 10
)

// parseOwn reads a rules file. Only what rules are made of may stand there:
// what configures an engine is the block's matter.
func parseOwn(path, text string) ([]directive, error) {
	list, err := join(path, text)
	if err != nil {
		return nil, err
	}
	var errs error
	mistakes := 0
	for _, d := range list {
		if why := d.flaw(); why != "" {
			if mistakes++; mistakes <= mostMistakes {
				errs = errors.Join(errs, fmt.Errorf("%s:%d: %s", path, d.line, why))
			}
		}
	}
	if errs == nil {
		errs = try(path, list)
	}
	return list, errs
}

// join puts continued lines together, and leaves comments out.
func join(path, text string) ([]directive, error) {
	var list []directive
	var open *directive
	n := 0
	for raw := range strings.Lines(text) {
		n++
		line := strings.TrimSpace(raw)
		if line == "" || line[0] == '#' {
			continue
		}
		if open == nil {
			list = append(list, directive{line: n})
			open = &list[len(list)-1]
		}
		part, more := strings.CutSuffix(line, `\`)
		if open.text += part; !more {
			open = nil
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the directive doesn't end: its last line says that it goes on", path, open.line)
	}
	return list, nil
}

// flaw says what of a directive isn't for a rules file.
func (d *directive) flaw() string {
	name, rest, _ := strings.Cut(d.text, " ")
	switch strings.ToLower(name) {
	case "secrule", "secaction", "secmarker":
	default:
		return fmt.Sprintf("%.40q isn't SecRule, SecAction or SecMarker, which is all that may stand here; to take rules out there is exclude", name)
	}
	if len(d.text) > mostDirective {
		return fmt.Sprintf("a directive of more than %d bytes", mostDirective)
	}
	if strings.ContainsRune(rest, '`') {
		return "a backtick can't stand here"
	}
	if m := outsideAction.FindStringSubmatch(rest); m != nil {
		return fmt.Sprintf("the action %s isn't for rules of a gateway", m[1])
	}
	if m := outsideOperator.FindStringSubmatch(rest); m != nil {
		return fmt.Sprintf("the operator @%s isn't for rules of a gateway", m[1])
	}
	return ""
}

// try makes the rules by themselves, and finds the one that can't be made.
func try(path string, list []directive) error {
	if build(list, true) == nil {
		return nil
	}
	// The first so many that fail end in what is wrong.
	n := sort.Search(len(list), func(i int) bool { return build(list[:i+1], false) != nil })
	if n == len(list) { // each is fine, and only what would follow isn't
		return fmt.Errorf("%s:%d: the chain goes on, but there is no further rule", path, list[n-1].line)
	}
	return fmt.Errorf("%s:%d: %w", path, list[n].line, build(list[:n+1], false))
}

// build makes rules; whole says that they are all, and so complete.
func build(list []directive, whole bool) error {
	var bad error
	ended := false
	cfg := experimental.WAFConfigWithRuleObserver(coraza.NewWAFConfig(), func(r types.RuleMetadata) {
		switch id := r.ID(); {
		case id == sentinel:
			ended = true
		case r.SecMark() == "" && (id < 1 || id > 99_999) && bad == nil:
			bad = fmt.Errorf("id %d: one's own rules have ids from 1 to 99999", id)
		}
	})
	var b strings.Builder
	b.WriteString("SecDefaultAction \"phase:1,log,pass\"\nSecDefaultAction \"phase:2,log,pass\"\n")
	for _, d := range list {
		b.WriteString(d.text + "\n")
	}
	if whole {
		fmt.Fprintf(&b, "SecAction \"id:%d,phase:1,pass,nolog\"\n", sentinel)
	}
	w, err := coraza.NewWAF(cfg.WithDirectives(b.String()))
	if err != nil {
		return plain(err)
	}
	closeWAF(w)
	if bad == nil && whole && !ended {
		bad = errors.New("the chain is open")
	}
	return bad
}

// sentinel is the id of a rule behind the last one, which an open chain would
// swallow.
const sentinel = 199_999

// plain is an error of Coraza's without what says where in Coraza it comes from.
func plain(err error) error {
	text := err.Error()
	for _, noise := range []string{"invalid WAF config from string: ", "failed to compile the directive "} {
		text = strings.TrimPrefix(text, noise)
	}
	return errors.New(text)
}
