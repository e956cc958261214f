// Package oidc is auth "oidc": people log in with a browser at an OpenID Connect
// provider (authorization code flow with PKCE). It starts no goroutine; the
// provider's keys are fetched by package keyset, and it is asked through package
// remote.
//
//	no session ── page ──> 302 to the provider, attempt in a cookie of its own
//	           └─ else ──> 401
//	callback ─ attempt, state, iss ─ code for tokens ─ ID token, nonce ──> session in a cookie, 302 to where it began
//	session ─ access token about to end ─ refresh ──> new cookie with the answer
//	        └ its time is up, or the provider takes it back ──> as without one
//	logout ─ from this site only ──> cookie gone, 303 to the provider's end of session
//
// Attempts and sessions are encrypted (AES-256-GCM) under keys of their own, for one
// block on one host; they are in the browser alone. What is kept here is bounded
// memory that may be lost: sessions that were read, refreshes that were made, and
// sessions that users have ended before their time.
package oidc
