// Package remote asks the services that policies depend on: who decides about a
// request, who knows a token, who lets users log in. It bounds what that can
// cost: how many requests are under way and how many wait, how long one takes,
// how large its answer is. What is asked, and what an answer means, is the matter
// of the policies. It isn't a policy itself.
//
// Answers that may be used again are kept in a Memory; equal questions that come
// at once are asked once (Flights).
//
// # Goroutines
//
// It starts none of its own; those of the HTTP client end with their connections,
// which close when they were idle for a minute, or when no configuration uses
// their service any more.
package remote
