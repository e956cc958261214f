package oidc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// box encrypts what the browser keeps, so that nobody else reads it and nobody at
// all changes it (AES-256-GCM with random nonces).
type box struct{ aead cipher.AEAD }

// newBox derives the key of one purpose from a secret (RFC 5869).
func newBox(secret []byte, purpose string) box {
	key, err := hkdf.Key(sha256.New, secret, nil, purpose, 32)
	if err != nil {
		panic(err) // of lengths alone, which are constants
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // as above
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // as above
	}
	return box{aead}
}

// seal returns text that only open with the same place reads again.
func (b box) seal(plain []byte, place string) string {
	return base64.RawURLEncoding.EncodeToString(b.aead.Seal(nil, nil, plain, []byte(place)))
}

func (b box) open(text, place string) ([]byte, bool) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, false
	}
	plain, err := b.aead.Open(nil, nil, sealed, []byte(place))
	return plain, err == nil
}

// random is text that nobody guesses: 256 bits.
func random() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}
