// Package rules has what RFC 9111 (HTTP Caching) and its relatives say to a shared
// cache, as pure functions: what may be stored, how long it is fresh, what a
// request may be answered with, which variant is meant, what a 304 changes. It
// stores nothing, knows no clock, and starts no goroutine.
//
//	control.go   Cache-Control and its directives (RFC 9111, 5.2), Pragma (5.4)
//	targeted.go  CDN-Cache-Control and Sidegate-Cache-Control (RFC 9213)
//	store.go     what may be stored (3), and how long it is fresh (4.2.1)
//	use.go       age (4.2.3), and whether a stored answer may be used (4, 5.2.1)
//	vary.go      variants (4.1)
//	condition.go validators and conditions (RFC 9110, 8.8 and 13), ranges (14)
package rules
