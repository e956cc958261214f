// Package proxy joins the parts of the data plane: listeners, the line that
// every request takes, the table that says where it goes, counters and the
// access log.
//
//	accept ─ front (h1│h2│h3) ─ canonicalise ─ match ─ policies ─ pool ─ send/receive ─ policies ─ front ─ finish
//
// handler.go is that line. The protocols are in h1, h2 and h3, the matcher in
// route, backends in upstream, policies in policy. The package reads no
// configuration files and discovers nothing: package app in cmd/sidegate builds
// a Table and gives it to a Handler.
//
// Goroutines: a Server owns its accept loops and one goroutine for each client
// connection; AccessLog.Run is run by app; a mirrored request has one of its
// own, of a bounded number.
package proxy
