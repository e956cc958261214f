// Package h1 speaks HTTP/1.0 and HTTP/1.1 (RFC 9112) to clients, as a front,
// and to backends, as a client.
//
// It is for bytes and framing: it turns them into an exchange.Exchange and
// back. It knows no routes, policies or pools, doesn't dial or accept, and
// doesn't speak HTTP/2; a listener that offers h2c tells the two apart before
// it calls ServeConn.
//
// # Strictness
//
// A message that two parsers could read in two ways is refused, from either
// side, and nothing of framing is forwarded as it came: each message that
// leaves is framed anew.
//
// # Memory
//
// A connection takes a buffer from a pool when bytes are there and gives it
// back when it has none to keep: an idle connection holds none (with TLS, one
// that waits does until it parks: to ask the socket first would cost a system
// call). The head of a message is offsets into that buffer, so the buffer stays
// until the exchange is over. In steady state an exchange allocates nothing.
//
// # Time
//
// Limits of two seconds and more are swept (package sweep): a connection
// notes when it must have moved on, and the sweeper marks the limit as passed
// and sets a socket deadline in the past. Mark and limit are one atomic word,
// so that a limit that was lifted in time can't hit late. Shorter limits are
// deadlines on the socket.
//
// # Goroutines
//
// ServeConn runs on its caller's goroutine, and so does everything else but
// for three cases. A connection that is idle for a second parks: a new goroutine
// with a small stack goes on with it, and the former one ends. A request body
// that isn't wholly in memory is copied to the backend by a goroutine of the
// ClientConn while the request's own reads the response: only so can both sides
// stream, and can an early answer (a 413, say) be seen before the body is
// through. It ends with the body, with an error, or with the exchange
// (RequestBody is closed then), and RoundTrip, Reusable and Close wait for it.
// An upgraded connection has a second goroutine for the way from client to
// backend; Respond waits for it.
package h1
