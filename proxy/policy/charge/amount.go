package charge

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/condition"
)

// Amount is a number of units in millionths. As text it is a decimal number with at
// most six decimals, "0.25"; so it is in JSON, where a number would lose some.
type Amount int64

const (
	one  Amount = 1_000_000
	most Amount = condition.MaxAmount
)

// ParseAmount reads an amount that isn't negative.
func ParseAmount(text string) (Amount, error) {
	whole, part, dotted := strings.Cut(text, ".")
	if dotted && part == "" || len(part) > 6 || whole == "" || strings.IndexFunc(whole+part, func(r rune) bool { return r < '0' || r > '9' }) >= 0 {
		return 0, fmt.Errorf("%.40q isn't a number of at most 6 decimals, like \"0.25\"", text)
	}
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n > int64(most/one) {
		return 0, fmt.Errorf("%.40q is more than %d", text, most/one)
	}
	millionths, _ := strconv.ParseInt((part + "000000")[:6], 10, 64) // digits
	a := Amount(n)*one + Amount(millionths)
	if a > most {
		return 0, fmt.Errorf("%.40q is more than %d", text, most/one)
	}
	return a, nil
}

// String is the amount without zeros at its end.
func (a Amount) String() string {
	sign := ""
	if a < 0 {
		sign, a = "-", -a
	}
	text := sign + strconv.FormatInt(int64(a/one), 10)
	if part := a % one; part != 0 {
		text += "." + strings.TrimRight(fmt.Sprintf("%06d", int64(part)), "0")
	}
	return text
}

// MarshalJSON writes a text.
func (a Amount) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, a.String()), nil }

// UnmarshalJSON reads a text, or a number.
func (a *Amount) UnmarshalJSON(b []byte) error {
	text := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	}
	rest, negative := strings.CutPrefix(text, "-")
	n, err := ParseAmount(rest)
	if err != nil {
		return errors.New("an amount " + err.Error())
	}
	if *a = n; negative {
		*a = -n
	}
	return nil
}
