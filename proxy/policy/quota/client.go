package quota

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/key"
)

const (
	clientSize = 256 // room for a client's name
	maxName    = 128 // bytes of a value that stand in it as they are
)

// client names the client of x, "consumer=acme": in words that are the same after
// a restart, and that an operator may read. What may be a credential is in it as
// a hash. It lives as long as x.
func (q *quota) client(x *exchange.Exchange) string {
	var buf [clientSize]byte
	b := append(buf[:0], q.text...)
	if q.cel != "" {
		sum := sha256.Sum256([]byte(q.cel))
		b = hex.AppendEncode(append(b, '~'), sum[:4])
	}
	switch q.by.Kind {
	case key.Route:
		return x.Keep(b)
	case key.ClientIP:
		return x.Keep(appendAddress(append(b, '='), x))
	}
	v, ok, err := q.by.Value(x)
	if err != nil {
		q.count.errors.Add(1)
	}
	if !ok {
		return x.Keep(appendAddress(append(b, "/client_ip="...), x))
	}
	b = append(b, '=')
	if len(v) > maxName || q.by.Secret() {
		sum := sha256.Sum256([]byte(v))
		return x.Keep(hex.AppendEncode(append(b, '~'), sum[:16]))
	}
	return x.Keep(append(b, v...))
}

func appendAddress(b []byte, x *exchange.Exchange) []byte {
	a := key.Address(x)
	if a[8] == 0 {
		return netip.AddrFrom4([4]byte(a[:4])).AppendTo(b)
	}
	var v6 [16]byte
	copy(v6[:8], a[:8])
	return netip.PrefixFrom(netip.AddrFrom16(v6), 64).AppendTo(b)
}

// Client is a consumer as the client of quotas by consumer.
func Client(consumer string) string {
	if len(consumer) > maxName {
		sum := sha256.Sum256([]byte(consumer))
		return "consumer=~" + hex.EncodeToString(sum[:16])
	}
	return "consumer=" + consumer
}
