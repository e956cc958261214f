package keyset

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes of the algorithms
	_ "crypto/sha512"
	"math/big"
)

// Alg is an algorithm of a signature (RFC 7518, 3.1; RFC 8037; RFC 9864). There
// is none for "none" and none with a shared secret.
type Alg uint8

// The algorithms.
const (
	RS256 Alg = iota + 1
	RS384
	RS512
	PS256
	PS384
	PS512
	ES256
	ES384
	ES512
	EdDSA   // with Ed25519
	Ed25519 // the same by its newer name
)

// ParseAlg returns the algorithm of a name, which is in one case (RFC 7515, 4.1.1).
func ParseAlg(name string) (Alg, bool) {
	for a := RS256; a <= Ed25519; a++ {
		if a.String() == name {
			return a, true
		}
	}
	return 0, false
}

// String is the algorithm's name.
func (a Alg) String() string {
	switch a {
	case RS256:
		return "RS256"
	case RS384:
		return "RS384"
	case RS512:
		return "RS512"
	case PS256:
		return "PS256"
	case PS384:
		return "PS384"
	case PS512:
		return "PS512"
	case ES256:
		return "ES256"
	case ES384:
		return "ES384"
	case ES512:
		return "ES512"
	case EdDSA:
		return "EdDSA"
	case Ed25519:
		return "Ed25519"
	default:
		return ""
	}
}

func (a Alg) hash() crypto.Hash {
	switch a {
	case RS256, PS256, ES256:
		return crypto.SHA256
	case RS384, PS384, ES384:
		return crypto.SHA384
	case RS512, PS512, ES512:
		return crypto.SHA512
	default:
		return 0 // Ed25519 hashes by itself
	}
}

// bits is the size of an algorithm's curve; 0: it has none.
func (a Alg) bits() int {
	switch a {
	case ES256:
		return 256
	case ES384:
		return 384
	case ES512:
		return 521
	default:
		return 0
	}
}

// fits reports whether the key is one for a: of its type, on its curve, and not
// bound to another algorithm.
func (k *Key) fits(a Alg) bool {
	if k.alg != 0 && k.alg != a && (k.ed == nil || k.alg < EdDSA) {
		return false
	}
	switch a {
	case RS256, RS384, RS512, PS256, PS384, PS512:
		return k.rsa != nil
	case ES256, ES384, ES512:
		return k.ec != nil && k.ec.Curve.Params().BitSize == a.bits()
	case EdDSA, Ed25519:
		return k.ed != nil
	default:
		return false
	}
}

// Verify reports whether the signature of what was signed is right.
func (k *Key) Verify(a Alg, signed, signature []byte) bool {
	if !k.fits(a) {
		return false
	}
	if k.ed != nil {
		return ed25519.Verify(k.ed, signed, signature)
	}
	h := a.hash().New()
	h.Write(signed)
	digest := h.Sum(nil)
	switch a {
	case RS256, RS384, RS512:
		return rsa.VerifyPKCS1v15(k.rsa, a.hash(), digest, signature) == nil
	case PS256, PS384, PS512:
		// The salt is as long as the hash (RFC 7518, 3.5).
		return rsa.VerifyPSS(k.rsa, a.hash(), digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	default:
		// Two numbers of the curve's size, not ASN.1 (RFC 7518, 3.4).
		n := (a.bits() + 7) / 8
		if len(signature) != 2*n {
			return false
		}
		r, s := new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:])
		return ecdsa.Verify(k.ec, digest, r, s)
	}
}
