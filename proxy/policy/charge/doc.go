// Package charge is the policy that puts a price on a route: units of a meter, which
// a billing service keeps account of. It knows no money, no invoices and no customers,
// and speaks one small protocol (openapi.yaml).
//
//	config.go    the block
//	policy.go    the policy: what a request is asked for, what an answer costs
//	make.go      one charge: made, shared by repeated requests, served, let go
//	body.go      answers whose price is known at their end
//	lease.go     blocks of units that are spent without asking
//	ledger.go    what is known, and how it gets to the disk
//	state.go     how records change what is known
//	record.go    the records
//	journal.go   their files
//	yield.go     two processes, while one hands over to the other
//	claim.go     clients' keys meanwhile
//	target.go    the billing services, and asking them
//	courier.go   telling them
//	list.go      what people are shown
//	reconcile.go comparing with what the billing services say
//	amount.go    units
//	count.go     counters
//
// # The life of a charge
//
//	         reserve                    the answer costs          told
//	       ┌──────────▶ asked ──────────────────────────▶ settle ──────▶ settled
//	begin ─┤              │ refused: 402; costs nothing,     │              ▲ retry
//	       └ event, lease │ broken off, crash                │ rejected ──▶ dead
//	                      ▼                                  ▼ broken off
//	                    cancel ───────told──▶ cancelled ◀────┘
//
// Each arrow is a record of the journal. What asks for something is on the disk
// before the billing service is asked; what charges is on the disk before the client
// gets the answer's head or, where the price is known at its end, the end. After a
// crash the records make the same state again, with the same ids; what was asked is
// cancelled then, what was to be told is told. The billing service takes each id
// once, so that all may be said again.
//
// Requests wait for the disk together: one write, and one fsync, is for all that
// came meanwhile.
//
// # Goroutines
//
// Ledger.Run, which the application owns: a writer and a courier; for each billing
// service that there is something to tell, one that ends with the last of it; and one
// for each lease that is being asked for. Run waits for them.
package charge
