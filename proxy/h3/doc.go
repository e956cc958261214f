// Package h3 is the HTTP/3 front: it accepts QUIC connections on a UDP socket,
// fills an exchange from each request stream and writes the response back.
//
// It is not for routing, policies or backends (exchange.Handler does those),
// and it speaks HTTP/3 to clients only. QUIC is quic-go's; HTTP/3 (RFC 9114)
// and QPACK (RFC 9204, without a dynamic table) are here.
//
//	port.go    a UDP socket, which outlives the fronts that serve on it
//	secrets.go the keys that outlive the process
//	ids.go     connection ids, which tell of which process they are
//	socket.go  who reads the socket, when processes share it
//	link.go    how one passes packets on to another
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
// # From one process to the next
//
// A port can go on in another process, without a client that notices. Both have
// the Secrets' keys (OpenSecrets, or Bytes and ParseSecrets), so that the next
// one can tell by the connection id of whose a packet is, takes the address
// tokens of the one before, and answers for its connections when it has ended
// (stateless reset).
//
// Handed over, while both run:
//
//	old: socket, links, err := p.HandOver()    pass them on; nothing has changed yet
//	new: p, err := ListenOn(conn, secrets, links, log)    still nothing
//	new: p.Use(front)    asks for the socket; the old one lets go of it, and reads
//	                     from the link instead. The new one serves who is new,
//	                     and passes on what is the old one's (about 1 ms)
//	old: front.Drain()   clients are asked to go, what they have begun goes on
//	old: (p.Conns() is 0, or time is up) front.Close(), p.Close()
//	new: (sees the end of the link) packets aren't looked at any more
//
// When the new process fails, the old one calls p.Reclaim, after the end of the
// new one: before Use that only makes HandOver possible again (which the end of
// the new one does by itself), after it the old one reads the socket again. A
// port that the new process has no use for isn't asked for, and goes on as it
// was, to its Close.
//
// A new process can hand over in turn while those before it still drain: HandOver
// returns links to all of them, and the third one passes on to each what is its.
//
// Through systemd's descriptor store, where the next process begins when this
// one has ended: p.Stay, then front.Drain: new clients are served and asked to go
// at once, as long as older requests go on. Shortly before the end p.Hush: from
// then on new clients go unheard, and try again until the next process hears
// them. When p.Conns is 0, front.Close and p.Close; the socket stays open in the
// store, and what arrives waits there for the next ListenOn and Use.
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
