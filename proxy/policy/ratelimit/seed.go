package ratelimit

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
)

// seed is the key of a hash that another process can go on with, unlike a maphash's:
// SipHash-1-3 (Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012).
type seed struct{ k0, k1 uint64 }

func newSeed() seed {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return seedOf(b[:])
}

// seedOf is that of 16 bytes.
func seedOf(b []byte) seed {
	return seed{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// sum is the hash of a text under a seed.
func sum[T string | []byte](s seed, text T) uint64 {
	v0, v1, v2, v3 := s.k0^0x736f6d6570736575, s.k1^0x646f72616e646f6d, s.k0^0x6c7967656e657261, s.k1^0x7465646279746573
	n := len(text)
	for ; len(text) >= 8; text = text[8:] {
		m := uint64(text[0]) | uint64(text[1])<<8 | uint64(text[2])<<16 | uint64(text[3])<<24 | uint64(text[4])<<32 | uint64(text[5])<<40 | uint64(text[6])<<48 | uint64(text[7])<<56
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	m := uint64(n) << 56
	for i := range len(text) {
		m |= uint64(text[i]) << (8 * i)
	}
	v3 ^= m
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= m
	v2 ^= 0xff
	for range 3 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v2 += v3
	v1, v3 = bits.RotateLeft64(v1, 13)^v0, bits.RotateLeft64(v3, 16)^v2
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v1
	v0 += v3
	v1, v3 = bits.RotateLeft64(v1, 17)^v2, bits.RotateLeft64(v3, 21)^v0
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}
