package keyset

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync/atomic"
	"time"
)

// The bounds of a set.
const (
	maxSet  = 512 << 10 // bytes
	maxKeys = 100
	maxID   = 256 // bytes of a key id

	minRSA = 2048 // bits (RFC 7518, 3.3)
	maxRSA = 8192 // a larger one costs milliseconds for each token
)

// Key is a public key of an issuer. It may be kept: Gone tells when the issuer
// has taken it back.
type Key struct {
	ID    string
	set   *Set
	alg   Alg // the only one it is for; 0: each of its type
	rsa   *rsa.PublicKey
	ec    *ecdsa.PublicKey
	ed    ed25519.PublicKey
	print [sha256.Size]byte // of all of the above, to know it again
	gone  atomic.Bool
}

// Set is the set that the key is of.
func (k *Key) Set() *Set { return k.set }

// Alive reports whether the key's issuer still has it, as far as that is known:
// keys of an issuer that has been away for too long count no more.
func (k *Key) Alive(now time.Time) bool { return !k.gone.Load() && k.set.fresh(now) }

// jwk is a key as it stands in a set (RFC 7517, 4; RFC 7518, 6).
type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Alg    string   `json:"alg"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	Crv    string   `json:"crv"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// parseSet reads a set. Keys that aren't for signatures, or that it doesn't
// understand, are left out (RFC 7517, 5); bad says why some were.
func parseSet(text []byte) (list []*Key, bad []error, err error) {
	var doc struct {
		Keys *[]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, nil, fmt.Errorf("isn't a JWK set: %w", err)
	}
	if doc.Keys == nil {
		return nil, nil, errors.New("isn't a JWK set: it has no keys")
	}
	if len(*doc.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("has %d keys; at most %d are allowed", len(*doc.Keys), maxKeys)
	}
	for i, raw := range *doc.Keys {
		var j jwk
		err := json.Unmarshal(raw, &j)
		var k *Key
		if err == nil {
			k, err = j.key()
		}
		switch {
		case err != nil:
			bad = append(bad, fmt.Errorf("key %d: %w", i, err))
		case k != nil:
			list = append(list, k)
		}
	}
	return list, bad, nil
}

// key makes a key; nil: it isn't one for signatures by a public key.
func (j *jwk) key() (*Key, error) {
	if j.Use != "" && j.Use != "sig" || len(j.KeyOps) > 0 && !slices.Contains(j.KeyOps, "verify") {
		return nil, nil
	}
	if len(j.Kid) > maxID {
		return nil, fmt.Errorf("its id has %d bytes; at most %d are allowed", len(j.Kid), maxID)
	}
	k := &Key{ID: j.Kid}
	if j.Alg != "" {
		var ok bool
		if k.alg, ok = ParseAlg(j.Alg); !ok {
			return nil, nil
		}
	}
	var err error
	switch {
	case j.Kty == "RSA":
		k.rsa, err = j.rsaKey()
	case j.Kty == "EC":
		k.ec, err = j.ecKey()
	case j.Kty == "OKP" && j.Crv == "Ed25519":
		k.ed, err = decode(j.X)
		if err == nil && len(k.ed) != ed25519.PublicKeySize {
			err = fmt.Errorf("x has %d bytes", len(k.ed))
		}
	default: // oct above all: a secret that everybody can read is none
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	same, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	k.print = sha256.Sum256(same)
	return k, nil
}

func (j *jwk) rsaKey() (*rsa.PublicKey, error) {
	n, err := decode(j.N)
	if err != nil {
		return nil, fmt.Errorf("n: %w", err)
	}
	e, err := decode(j.E)
	if err != nil {
		return nil, fmt.Errorf("e: %w", err)
	}
	exp, mod := new(big.Int).SetBytes(e), new(big.Int).SetBytes(n)
	if bits := mod.BitLen(); bits < minRSA || bits > maxRSA {
		return nil, fmt.Errorf("an RSA key of %d bits; %d to %d are allowed", bits, minRSA, maxRSA)
	}
	if exp.BitLen() > 31 || exp.Int64() < 3 || exp.Bit(0) == 0 {
		return nil, errors.New("e isn't an odd number from 3 to 2147483647")
	}
	return &rsa.PublicKey{N: mod, E: int(exp.Int64())}, nil
}

func (j *jwk) ecKey() (*ecdsa.PublicKey, error) {
	var curve elliptic.Curve
	switch j.Crv {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	case "P-521":
		curve = elliptic.P521()
	default:
		return nil, fmt.Errorf("the curve %.20q isn't one of P-256, P-384 and P-521", j.Crv)
	}
	x, err := decode(j.X)
	if err != nil {
		return nil, fmt.Errorf("x: %w", err)
	}
	y, err := decode(j.Y)
	if err != nil {
		return nil, fmt.Errorf("y: %w", err)
	}
	if size := (curve.Params().BitSize + 7) / 8; len(x) != size || len(y) != size { // RFC 7518, 6.2.1.2
		return nil, fmt.Errorf("x and y have %d and %d bytes, not %d", len(x), len(y), size)
	}
	// Refuses a point that isn't on the curve.
	return ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
}

func decode(text string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err == nil && len(b) == 0 {
		err = errors.New("is missing")
	}
	return b, err
}
