// Package tls decides which certificate a client gets, and keeps those
// certificates fresh: by ACME, from files, and from an authority of our own
// for names that no public one would certify. It also keeps the keys of
// session tickets, so that clients resume across restarts.
//
// It isn't for connections: it makes *crypto/tls.Config values, and the fronts
// use them. Inside this folder crypto/tls is imported plainly; others import
// this package as edgetls. No exported name here exists in crypto/tls, so a
// wrong import doesn't compile.
//
// # Which certificate
//
//	acme-tls/1 alone in ALPN     the challenge's certificate, or no handshake
//	no server name               the local authority's, for the address
//	name covered by a file       the file's: exact names first, then wildcards
//	host of a route, by ACME     the newest one, also when it has expired
//	private name, address        the local authority's
//	host of a route, none yet    the local authority's: health checks and the
//	                             first requests don't wait for the CA
//	allowed by on_demand.ask     by ACME, during the handshake
//	anything else                alert unrecognized_name
//
// Private names are localhost, names of one label, and all under .localhost,
// .internal, .local, .test and .home.arpa.
//
// # Between services
//
// Identity is for listeners and connections within a fleet, where both sides show
// certificates with the names of services. It has nothing in common with Manager
// but this package; FleetCA makes what IdentityFiles reads.
//
// # Goroutines
//
// IdentityFiles.Run polls three files until its context ends.
//
// Manager.Run polls files and rotates ticket keys until its context ends. A
// committed plan with ACME starts certmagic's maintenance and one goroutine
// for each host that has no certificate yet; the plan that replaces it, or
// Manager.Close, stops and awaits them.
//
// # On disk, below the state directory
//
//	certificates/   ACME certificates, keys and account; directories 0700, files 0600
//	ca/             root.pem and root.key of the local authority
//	tickets.json    session ticket keys
//	storage.key     encrypts what goes to shared storage
//
// Everything served is in memory: an unreadable or full disk costs
// persistence, not service.
package tls
