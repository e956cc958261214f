// Package consul asks a Consul agent: where the instances of a service are
// (Client is a discovery.Source), which routes registrations claim, and what
// lies under a KV prefix. It registers services for the demo and the sidecar.
// It doesn't decide who may claim what (discovery.Merge and Exposed), keep
// anything on disk (discovery.Snapshots) or speak Connect.
//
// # Reading
//
// Everything is read with blocking queries: the agent answers when something
// changed, or after five minutes. Reads may be stale (any server answers), so a
// lost leader doesn't blind us; but the first read after an error or after an
// index that went backwards is consistent when something is known already, as a
// server that has just started answers stale reads while it still restores its
// state. Checks are judged here, as Consul's own proxies do: any critical check
// makes an instance critical, a maintenance check puts it in maintenance, a
// warning one takes Weights.Warning; a weight below 1 is critical, above 128 is
// 128.
//
// # When an empty answer is believed
//
// Consul answers 200 with an empty list, not 403, when the token may not read
// (measured with 1.22.7: anonymous, and a token whose policy was taken away).
// So an empty answer is believed only if
//  1. it doesn't say X-Consul-Results-Filtered-By-ACLs: true, and
//  2. a second read with consistent mode is empty and unfiltered too, and
//  3. the agent says that this token may read the service and nodes
//     (internal/acl/authorize), or has no ACLs. That header is withheld from
//     anonymous readers, and so this question is the only proof for them. An
//     agent that doesn't know the question is asked acl/token/self instead; if
//     there is no token then either, the empty answer counts only when the
//     default policy isn't deny.
//
// Otherwise the last set stays and the watch reports what the token lacks.
//
// # Few sockets
//
// An agent allows 200 connections per client address, which all sidecars of a
// host share. Watches of the same query share one feed. To an https agent all
// feeds run over HTTP/2, and each has its own blocking query. On plain HTTP and
// on unix sockets at most 100 feeds block, fewer after a 429. The feeds beyond
// share two blocking queries (pulse.go): health/state/any tells at once which
// services' checks or nodes changed, catalog/services which names and tags, and
// those feeds alone read again. What neither shows (a weight, address or meta
// changed while all checks stayed) is found by a sweep, at most every 30 s and
// only when the catalog's index moved. A sidecar, of which a host may have fifty,
// has Deps.Blocking: two watches block, and when there are more, all share, and
// the pulse asks for their checks alone.
//
// # Goroutines
//
// New starts none. A feed's goroutine is started by its first Watch and has
// ended when its last Watch returns; so have the pulse's. WatchClaims has one
// beside its caller's. Close drops idle connections.
package consul
