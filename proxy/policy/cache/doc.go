// Package cache is the policy that answers from memory, and from disk, what a service
// has answered before, as RFC 9111 has it for a shared cache. What may be stored and
// used is decided in package rules; this package keeps the answers, has one request at
// a time fetch each, and puts them into exchanges.
//
//	cache.go     the block, and the policy
//	request.go   a request: found, waited for, or sent on
//	response.go  a response of the service: stored, validated, or neither
//	answer.go    a stored answer becomes the response of an exchange
//	part.go      parts of one
//	encodings.go codings of one, which the route's policy.Coder makes, and takes off
//	key.go       what an answer is found by
//	store.go     the answers, within bounds: stored, replaced, forgotten
//	item.go      one of them, and how exchanges see it
//	shard.go     the index
//	queue.go     who goes when there is no more room (W-TinyLFU)
//	walk.go      all of them, for operators, and what is attached to one
//	flight.go    what is on its way
//	fill.go      the body of that
//	reader.go    the many who read it
//	disk.go      the part on disk: bounds, what goes, the worker
//	diskfile.go  a file: its format, and reading it
//	diskwrite.go writing it
//	diskscan.go  what is there after a start
//	counts.go    what routes have counted
//	spec.go      what an operator makes it forget: URLs, hosts, tags, routes
//	tags.go      what services tag their answers with
//	purge.go     all answers are looked at, for many purges at once
//	index.go     which purges an answer is among
//	recent.go    purges that answers on their way have to heed
//	fleet.go     purges are told to all nodes
//	catchup.go   what other nodes have purged
//	inspect.go   what is stored of a URL
//	reasons.go   why answers weren't stored
//	explain.go   what would become of a request
//	beside.go    routes without a cache that change what others have stored
//
// # Goroutines
//
// An answer is stored by the goroutine of the request that fetches it, if it was
// there with its head. Otherwise one more goroutine reads it at the speed of the
// service, so that no slow client holds up those who wait for the same; it ends
// before the exchange does, which waits for it, and hangs up on the service if it
// takes long. Store.Run is the disk's worker, which all writing goes through; files
// are read by the requests that ask for them.
//
// # Locks
//
// In this order, where more than one is held: a fill's, disk.names, disk.scan, a
// shard's, disk.mu.
package cache
