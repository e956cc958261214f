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
// A Port is a UDP socket; a Front is what serves the connections of a listener's
// present configuration. A connection belongs to the front that the port had at
// its first packet, to its end.
//
// Memory: what a client sends and nobody has read yet is at most maxConnWindow
// a connection, connWindow until it has shown that it is read fast. It is the
// backends' pace that decides, since bodies are read as they are forwarded.
//
// Goroutines: a port has one that accepts, until it closes; a front one that
// waits for its end. quic-go starts some for the socket and each connection, and
// one for each request stream; all end when front and port are closed. Respond
// starts none, but lets the runtime close a response body from another goroutine
// when the client leaves.
package h3
