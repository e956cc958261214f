package rate

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
)

// maxUnits is the largest number that answers can carry (RFC 9651, 3.3.1).
const maxUnits = 999_999_999_999_999

// ParseQuota reads a quota: a number, a slash, and h, day or month.
func ParseQuota(text string) (exchange.Quota, error) {
	number, unit, ok := strings.Cut(text, "/")
	n, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || strings.HasPrefix(number, "+") {
		return exchange.Quota{}, fmt.Errorf("%.40q isn't a quota, such as \"1000000/month\", \"20000/day\" or \"1000/h\"", text)
	}
	q := exchange.Quota{Units: n}
	switch unit {
	case "h":
		q.Period = exchange.Hour
	case "day":
		q.Period = exchange.Day
	case "month":
		q.Period = exchange.Month
	case "s", "m":
		return q, fmt.Errorf("%.40q: a quota is by h, day or month; what is less is a rate_limit's matter", text)
	default:
		return q, fmt.Errorf("%.40q: a quota is by h, day or month", text)
	}
	switch {
	case n < 1:
		return q, fmt.Errorf("%.40q lets nothing pass", text)
	case n > maxUnits:
		return q, fmt.Errorf("%.40q is more than %d", text, int64(maxUnits))
	}
	return q, nil
}

// QuotaText is q as the configuration writes it.
func QuotaText(q exchange.Quota) string {
	return strconv.FormatInt(q.Units, 10) + "/" + q.Period.String()
}
