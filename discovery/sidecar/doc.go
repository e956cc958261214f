// Package sidecar keeps services registered on the local Consul agent, and takes
// them off in the order that loses no request. It doesn't serve anything: what
// the agent's check asks, and what is drained, are the data plane's.
//
//	Set ─ Ready? ──────────── registered ─ compared, and put right ─ …
//	      nothing is written  one PUT      whenever something may have changed
//
//	Leave: maintenance → in the catalog → `wait` for who watches it
//	Gone:  deregistered, which comes after draining
//
// # What is compared
//
// A registration that is as it should be isn't touched: not by the next process
// of the same sidecar (handover, restart), and not after an agent's restart that
// kept it. Whether it is, is looked up: at the start, when the agent's blocking
// query says that it changed, when the agent answers again after it didn't, every
// minute, and, in a process that watches services through the same client and so
// has connections enough, every five seconds. What other means changed (`consul
// maint`, the state of the check) stays.
//
// # After a crash
//
// The ids are noted in the state directory before they are registered. Those
// noted by an earlier run that aren't wanted any more are deregistered at the
// start, if the agent's registration still says that it is this directory's (meta
// sidegate-owner): another sidecar may have got the port, and so the id,
// meanwhile. Gone takes out of the note what was deregistered, so what it
// couldn't, as the agent was away, is left to the next start.
//
// # Goroutines
//
// New starts none. Run has one for each service that waits to be ready, and one
// for the agent's blocking query; all have ended when it returns.
package sidecar
