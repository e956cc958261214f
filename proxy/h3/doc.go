// Package h3 is the HTTP/3 front: it accepts QUIC connections on a UDP socket,
// fills an exchange from each request stream and writes the response back.
//
// It is not for routing, policies or backends (exchange.Handler does those),
// and it speaks HTTP/3 to clients only. QUIC is quic-go's; HTTP/3 (RFC 9114)
// and QPACK (RFC 9204, without a dynamic table) are here.
//
//	port.go    a UDP socket, which outlives the fronts that serve on it
//	gate.go    who is let in, and who has to prove its address
//	early.go   early data (0-RTT), and why a replay of it is none
//	front.go   what serves the connections of a listener's configuration
//	conn.go    a connection: its requests, idle time, GOAWAY
//	control.go what a client says beside its requests
//	stream.go  a request: frames, head; body.go its content; respond.go the answer
//	head.go    what a head has to be like; qpack.go, static.go and frame.go the bytes
//
// A connection belongs to the front that its port had at its first packet, to
// its end. A port is one socket: with one for each of two cores, steered by
// connection id, a request cost as much and no more were served.
//
// Malformed requests reset their stream, and are told to the handler like all
// others, so that they are counted and logged; what breaks the rules of the
// connection ends that.
//
// Memory: what a client sends and nobody has read yet is at most maxConnWindow
// a connection, connWindow until it has shown that it is read fast. It is the
// backends' pace that decides, since bodies are read as they are forwarded. A
// client gets credit for another stream only when the handler of one has ended.
//
// Goroutines: a port has one that accepts, until it closes. A connection has
// one for its requests and one for the client's unidirectional streams, and one
// for each of those; they end with it. Workers of the front serve one request
// at a time and park in between; they end with Close. quic-go starts some for
// each socket and connection. A timer of each connection looks whether it is
// idle. Respond starts none, but lets the runtime close a response body from
// another goroutine when the client leaves.
package h3
