// Package h2 speaks HTTP/2 (RFC 9113): as a front, towards clients, and as a
// client, towards backends.
//
// Frames are read by golang.org/x/net/http2's Framer and field blocks are
// decoded by its hpack; connections, streams, flow control and the budgets
// against abuse are here. It is not for choosing a backend, nor for policies,
// and it knows no HTTP/1.1: the h2c upgrade of RFC 7540 isn't offered.
//
// # Parts
//
// A link is what both directions share of a connection: the output buffer and
// the flow control of the connection. A lane is what they share of a stream: its
// windows, the received bytes that nobody has read yet, its end. A front's conn
// is a link with streams, a ClientConn is a link with calls.
//
//	reader ─ Framer ─ block (hpack) ─ conn ─ lane.deliver → Body.Read
//	                                    └── crew: Handler.Serve(x)
//	Respond ─ lane.send ─ link.out ─ whoever writes ─ net.Conn
//
// # Output
//
// Nobody owns the socket. Who has queued frames calls link.flush: if nobody
// writes, the caller becomes the writer; before it writes it yields, so that
// other streams that are ready put their frames into the same write.
// Streams that find no room, or no window, wait in line, and each gets one frame
// a turn. A reader never writes, so that two peers that both wait for the other
// to read can't lock up.
//
// # Locks
//
// link.mu guards all of a connection and its streams. It isn't held while the
// socket is read or written, nor while other packages are called, but for
// Front.Gone, which takes no lock. The sweeper's lock comes before it.
//
// # Goroutines
//
// The caller of Front.ServeConn reads its connection; each time that was idle for
// long, a new goroutine goes on and the former one ends (park.go). Front.Close
// waits for the last one. Each request runs on a worker of the front's crew;
// workers park between requests, at most maxParked of them, and end when idle for
// long or with Front.Close. A websocket adds one.
// NewClientConn starts one reader, which Close ends and waits for. A request
// body that isn't complete in memory is copied to the backend by a goroutine of
// its own, since backends may answer while they read (gRPC streams do); the end
// of the response body, or closing it, ends that goroutine and waits for it.
package h2
