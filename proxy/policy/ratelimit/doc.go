// Package ratelimit is the policy that bounds how often a client may ask. It
// counts on this node alone and never admits more than rate × time + burst; what
// is counted over hours or months, and survives a restart, isn't its matter.
//
//	gcra.go   the decision: a time and a rate in, yes or no out
//	store.go  one time for each client, in a table of a fixed size
//	key.go    a client's place in it
//	fields.go what the answer says of it
//
// The algorithm is GCRA: of each client one time is kept, at which its bucket
// will be full again. A request moves it on by the interval between two
// requests; one that would move it further ahead than the burst allows is
// refused. Times are those of the monotonic clock: a step of the wall clock
// neither refills a bucket nor locks anybody out.
//
// All limits of a route must admit a request. When one refuses, none has taken
// anything.
//
// The package starts no goroutine.
package ratelimit
