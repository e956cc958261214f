// Package keyset has the public keys of those who issue tokens: fetched from
// their JWKS (RFC 7517), kept fresh, and kept while an issuer is away. What a
// token says, and whom it lets in, is the matter of the policies below auth. It
// isn't a policy itself.
//
// Keys are found by what the configuration says alone. Nothing of a token is
// ever an address to fetch from, or a key: jku, x5u, jwk and x5c are not even
// read. Of a set only public keys for signatures are taken, so that no secret
// can be made of one (RFC 8725, 3.1 and 3.2).
//
// A set is fetched ahead of its time: after four fifths of what the issuer's
// Cache-Control allows, between a minute and an hour. A key id that isn't there
// has it fetched at once, but at most every 30 seconds, and each such id is
// remembered as missing for a minute: whoever makes up ids moves nothing. When
// an issuer is away its last keys go on for a day.
//
// # Goroutines
//
// Store.Run is the caller's; it starts one for each fetch, bounded by its
// deadline, and awaits them when its context ends.
package keyset
