// Package secret keeps credentials out of logs: a String prints as <secret>
// however it is formatted or marshalled.
package secret

// String is a credential from the configuration.
type String string

const shown = "<secret>"

// String hides the credential; Reveal gives it.
func (s String) String() string {
	if s == "" {
		return ""
	}
	return shown
}

// GoString hides the credential from %#v.
func (s String) GoString() string { return s.String() }

// MarshalText hides the credential from JSON and its like.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reveal is the credential itself.
func (s String) Reveal() string { return string(s) }
