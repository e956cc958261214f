package config

import (
	"fmt"
	"strings"
)

// nearest is the candidate that name is most likely a slip of, or "".
func nearest(name string, candidates []string) string {
	best, at := "", 1+max(1, min(3, len(name)/3))
	low := strings.ToLower(name)
	for _, c := range candidates {
		if c == name {
			continue
		}
		if d := distance(low, strings.ToLower(c), at); d < at {
			best, at = c, d
		}
	}
	return best
}

// didYouMean is advice for an unknown name: the nearest candidate, or all of
// them when they are few.
func didYouMean(name string, candidates []string) string {
	if n := nearest(name, candidates); n != "" {
		return fmt.Sprintf("Did you mean %q?", n)
	}
	if len(candidates) > 0 && len(candidates) <= 16 {
		return "What there is: " + strings.Join(candidates, ", ") + "."
	}
	return ""
}

// DidYouMean is advice for a name that isn't among the candidates: "" for none.
func DidYouMean(name string, candidates []string) string { return didYouMean(name, candidates) }

// and lists words: a, b and c.
func and(words []string) string { return series(words, "and") }

// or lists words: a, b or c.
func or(words []string) string { return series(words, "or") }

func series(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " " + last + " " + words[len(words)-1]
}

// distance is the number of letters to insert, delete, replace or swap with
// their neighbour between a and b; it may stop counting at limit.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
