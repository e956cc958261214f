// Package upstream sends exchanges to the instances of services. It is for
// everything between "this service" and the response's head: which instances
// may be used, choosing one, connections, tries, health, ejection, slow start.
//
// It isn't for routing (who decides on the service), policies, protocols (h1
// and h2 speak them) or finding instances (discovery does).
//
// # From a source's word to a request
//
//	discovery.Source ──update──▶ Pool: instances by address (stats, connections, check, ejection)
//	                                │ rebuild, whenever one of them changes
//	                                ▼
//	Send ──▶ view (immutable): eligible instances ──pick──▶ slot ──▶ connection ──▶ round trip
//	  ▲                                              (limits, queue)  (idle or new)      │
//	  └──────────── another instance, within the budget ◀── failed, or a status to retry ┘
//
// An instance is eligible when its source calls it passing or warning, its
// active check (if any) doesn't fail, and it isn't ejected. When the eligible
// share falls below the panic threshold, all but those in maintenance are.
//
// What belongs to an instance lasts as long as its address stays in the set:
// across updates, and across reloads that leave the way to find it alone.
//
// # Goroutines
//
// Plan.Commit starts, and Group.Close (or the commit of a plan without the pool)
// ends and waits for: one watch per pool, one checker per pool with a
// health_check block (with at most 16 checks at a time beside it), and one
// keeper for the group, which ends ejections and closes idle connections.
// Requests run on their callers' goroutines.
package upstream
