package h3

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/quic-go/quic-go"

	"github.com/sidegate-proxy/sidegate/proxy/abuse"
)

// maxControlFrame bounds the frames of the control stream that mean something.
const maxControlFrame = 4 << 10

// acceptUni takes the client's unidirectional streams.
func (c *conn) acceptUni() {
	for {
		str, err := c.quic.AcceptUniStream(context.Background())
		if err != nil {
			return // the connection has ended
		}
		c.f.done.Go(func() { c.uni(str) })
	}
}

// uni reads a unidirectional stream (RFC 9114, 6.2).
func (c *conn) uni(str *quic.ReceiveStream) {
	defer str.ReleaseStreamCredit()
	in := &input{from: str, buf: make([]byte, 64)} // mostly there is no more to it
	kind, err := in.number()
	if err != nil {
		c.bear(abuse.Stray)
		return // it ended before it began: no error
	}
	switch kind {
	case streamControl, streamEncoder, streamDecoder:
		if c.seen[kind].Swap(true) {
			c.fail(&connError{codeStreamCreation, "a second stream of a kind of which there is one"})
			return
		}
	case streamPush:
		c.fail(&connError{codeStreamCreation, "a push from a client"}) // RFC 9114, 6.2.2
		return
	default:
		c.bear(abuse.Stray)
		str.CancelRead(quic.StreamErrorCode(codeStreamCreation))
		return
	}
	switch kind {
	case streamControl:
		err = c.readControl(in)
	case streamEncoder:
		err = c.readEncoder(in)
	default:
		err = c.readDecoder(in)
	}
	var e *connError
	var reset *quic.StreamError
	switch {
	case errors.As(err, &e):
		c.fail(e)
	case errors.Is(err, io.EOF), errors.As(err, &reset):
		c.fail(&connError{codeClosedCritical, "a stream was closed that must stay open"}) // RFC 9114, 6.2.1
	} // else the connection has ended
}

// readControl reads the control stream to its end, which must not be.
func (c *conn) readControl(in *input) error {
	typ, n, err := in.header()
	if err != nil {
		return err
	}
	if typ != frameSettings {
		return &connError{codeMissingSettings, "the control stream doesn't begin with SETTINGS"} // RFC 9114, 6.2.1
	}
	p, err := in.small(n)
	if err != nil {
		return err
	}
	if err := checkSettings(p); err != nil {
		return err
	}
	ids := control{maxPush: -1, goAway: -1}
	for {
		if typ, n, err = in.header(); err != nil {
			return err
		}
		if err := ids.frame(in, typ, n); err != nil {
			return err
		}
		if typ == framePriorityRequest {
			c.bear(abuse.Priority)
		} else {
			c.bear(abuse.Unknown)
		}
	}
}

// small takes the payload of a frame that can't be large.
func (in *input) small(n uint64) ([]byte, error) {
	if n > maxControlFrame {
		return nil, &connError{codeExcessiveLoad, "a large frame on the control stream"}
	}
	return in.payload(int(n))
}

// checkSettings looks whether settings may be (RFC 9114, 7.2.4). None of them
// changes what we do: our responses refer to no dynamic table, and what a client
// wants as the size of a head is advice.
func checkSettings(p []byte) error {
	var seen []uint64
	for len(p) > 0 {
		id, n := varint(p)
		_, m := varint(p[n:])
		if n == 0 || m == 0 {
			return &connError{codeFrame, "SETTINGS are cut off"}
		}
		p = p[n+m:]
		switch {
		case id >= 0x2 && id <= 0x5: // HTTP/2's (RFC 9114, 7.2.4.1)
			return &connError{codeSettings, "a setting of HTTP/2"}
		case slices.Contains(seen, id):
			return &connError{codeSettings, "a setting is repeated"}
		case len(seen) == 64:
			return &connError{codeExcessiveLoad, "too many settings"}
		}
		seen = append(seen, id)
	}
	return nil
}

// control is what has to be remembered of the control stream.
type control struct{ maxPush, goAway int64 }

// frame takes a frame other than the first (RFC 9114, 7.2).
func (c *control) frame(in *input, typ, n uint64) error {
	switch typ {
	case frameData, frameHeaders, framePushPromise, frameSettings:
		return &connError{codeFrameUnexpected, "a frame that has no place on the control stream"}
	case frameCancelPush, framePriorityPush:
		return &connError{codeID, "a push that was never promised"} // we push nothing
	case frameMaxPushID, frameGoAway, framePriorityRequest:
	default:
		if reserved(typ) {
			return &connError{codeFrameUnexpected, "a frame of HTTP/2"}
		}
		return in.skip(n)
	}
	p, err := in.small(n)
	if err != nil {
		return err
	}
	v, m := varint(p)
	id := int64(v)
	if m == 0 || typ != framePriorityRequest && m != len(p) {
		return &connError{codeFrame, "a frame with another length than it says"}
	}
	switch typ {
	case frameMaxPushID:
		if id < c.maxPush {
			return &connError{codeID, "MAX_PUSH_ID goes back"}
		}
		c.maxPush = id
	case frameGoAway: // what it stops is pushes
		if c.goAway >= 0 && id > c.goAway {
			return &connError{codeID, "GOAWAY goes back"}
		}
		c.goAway = id
	case framePriorityRequest: // advice that we don't take (RFC 9218, 7)
		if id%4 != 0 {
			return &connError{codeID, "the priority of something else than a request"}
		}
	}
	return nil
}

// readEncoder reads what the client's encoder says. Without a dynamic table,
// that is at most that its capacity is 0 (RFC 9204, 4.3.1).
func (c *conn) readEncoder(in *input) error {
	for {
		if err := in.fill(1); err != nil {
			return err
		}
		for _, b := range in.buffered() {
			if b != 0x20 {
				return &connError{codeEncoderStream, "an entry for a table that there isn't"}
			}
		}
		c.bear(abuse.Settings)
		in.r = in.w
	}
}

// readDecoder reads what the client's decoder says. It has nothing to confirm,
// but may have given up streams (RFC 9204, 4.4.2).
func (c *conn) readDecoder(in *input) error {
	within := false // a stream's id
	for {
		if err := in.fill(1); err != nil {
			return err
		}
		for _, b := range in.buffered() {
			switch {
			case within:
				within = b >= 0x80
			case b&0xc0 == 0x40:
				within = b&0x3f == 0x3f
			default:
				return &connError{codeDecoderStream, "an acknowledgement of nothing"}
			}
		}
		c.bear(abuse.Stray)
		in.r = in.w
	}
}
