// Package h3 is the HTTP/3 front: it accepts QUIC connections on a UDP socket,
// fills an exchange from each request stream and writes the response back.
//
// It is not for routing, policies or backends (exchange.Handler does those),
// and it speaks HTTP/3 to clients only. QUIC, QPACK and the frames are
// quic-go's; what this package adds is the mapping to Exchange, the bounds,
// and the order of draining.
//
// Early data (0-RTT) is off: a connection is accepted when its handshake has
// completed, so no request can be a replay and TooEarly never arises.
//
// Goroutines: Serve runs on its caller's. quic-go starts some for the socket
// and each connection, and one for each request stream; all end when Serve
// returns, which Close makes it do. Respond starts none, but lets the runtime
// close a response body from another goroutine when the client leaves.
package h3
