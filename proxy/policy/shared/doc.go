// Package shared counts for a fleet: what the policies ask that count on all
// nodes together. It isn't a policy itself.
//
//	fleet.go   who is asked, and that nobody waits for who doesn't answer
//	redis.go   counters in Redis: one script, one round trip for a request
//	leases.go  without Redis: shares of counters leased from Consul's KV
//
// In Redis, all nodes count as one: never more passes than rate × time + burst,
// by the clock of Redis alone. A node asks with a deadline. When that passes, or
// Redis says an error, the node is on its own, at once for all requests, until a
// probe succeeds: an outage costs the requests that are under way then one
// deadline, and the others nothing. What a request gets meanwhile is for its
// policy to say.
//
// A lease is a number of requests that the fleet's counter, a key in Consul's KV,
// has given to a node by check-and-set, for it to spend when it likes. So nodes
// may admit more than rate × time + burst in any time, by what they had leased
// before and not spent: nodes × chunk at most. Quotas are never exceeded, but a
// node that dies takes what it had leased with it. Nodes use their wall clocks
// here, which may be a minute apart; one that is ahead may get rate × that much
// more, once.
//
// Fleet.Run is the one goroutine; the application owns it.
package shared
