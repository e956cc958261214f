package exchange

import (
	"encoding/json"
	"strconv"
	"strings"
)

// Claims are what a verified token says. They never change and belong to no
// exchange: they may be kept, their strings too.
type Claims struct {
	values map[string]any
	texts  map[string]string
}

// NewClaims returns claims of values as JSON has them: string, bool, int64,
// float64, nil, []any and map[string]any. Nobody may change them afterwards.
func NewClaims(values map[string]any) *Claims {
	c := &Claims{values: values, texts: make(map[string]string, len(values))}
	for name, v := range values {
		if text := claimText(v); text != "" {
			c.texts[name] = text
		}
	}
	return c
}

// claimText is a value as a header field has it. Lists and objects stay JSON: a
// list joined by commas would let one element pass for two.
func claimText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			return "" // not of JSON
		}
		return string(b)
	}
}

// Text is a claim as text: strings, numbers, true and false as they are, lists
// and objects as JSON; "" without the claim. "a.b" is b in the object a, unless
// there is a claim of that very name. c may be nil.
func (c *Claims) Text(name string) string {
	if c == nil {
		return ""
	}
	if text, ok := c.texts[name]; ok || strings.IndexByte(name, '.') < 0 {
		return text
	}
	v, _ := c.Find(name)
	return claimText(v)
}

// Find is a claim as JSON has it, by a name as Text takes it. c may be nil.
func (c *Claims) Find(name string) (any, bool) {
	if c == nil {
		return nil, false
	}
	return find(c.values, name)
}

// find prefers the longest name: claims that are URLs have dots in them.
func find(values map[string]any, name string) (any, bool) {
	if v, ok := values[name]; ok {
		return v, true
	}
	for end := strings.LastIndexByte(name, '.'); end > 0; end = strings.LastIndexByte(name[:end], '.') {
		if inner, ok := values[name[:end]].(map[string]any); ok {
			if v, ok := find(inner, name[end+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// Values are the claims as JSON has them; nobody may change them. c may be nil.
func (c *Claims) Values() map[string]any {
	if c == nil {
		return nil
	}
	return c.values
}
