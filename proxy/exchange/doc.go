// Package exchange holds the one type that travels from listener to backend
// and back: an Exchange, one request and its response.
//
// It is for the parts that every protocol and policy share: message heads as
// views into connection memory, edits applied while a head is serialised,
// bodies, the canonical target, faults. It knows no protocol, no policy and no
// backend, and imports nothing of ours.
//
// # Memory
//
// A Head views the bytes of the connection that it came from. Strings that a
// Head, a Target or a Param hands out are views too: they die with the
// exchange, at the end of Handler.Serve. Whoever keeps one clones it
// (strings.Clone).
//
// # What came in and what goes out
//
// Request and Response are what came in, from the client and from the backend;
// nobody changes them. RequestEdits, ResponseEdits and Out say how what goes
// out differs. So nothing needs undoing when a try is repeated.
//
// The package starts no goroutine.
package exchange
