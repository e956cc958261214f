package h2

import "time"

// What frames that cost the sender nothing, and us something, add to a
// connection's score. The score halves each second; at maxScore the connection
// is told to calm down and closed (RFC 9113, 10.5).
const (
	maxScore = 2000

	costSettings     = 50
	costPing         = 20
	costPriority     = 4
	costEmpty        = 20 // a DATA, HEADERS or CONTINUATION frame with nothing in it
	costWindow       = 10 // a WINDOW_UPDATE that no DATA of ours explains
	costUnknown      = 10
	costStray        = 10 // a frame for a stream that is over
	costStreamError  = 40
	costRefused      = 20
	costHeadTooLarge = 40
)

const (
	second     = int64(time.Second)
	resetFloor = 100 // streams in a second before their share of resets counts
)

// meter is the abuse score of a connection. Times are the sweeper's.
type meter struct {
	score   int
	at      int64 // when the score was last halved
	credit  int   // control frames that data of ours explains
	opened  int   // streams in the second since
	resets  int   // of them reset by the peer, or because of an error of the peer's
	started int64
}

// add counts cost and reports whether the connection is still bearable.
func (m *meter) add(now int64, cost int) bool {
	if n := (now - m.at) / second; n > 0 {
		m.score >>= min(n, 31)
		m.at = now
	}
	m.score += cost
	return m.score < maxScore
}

// spend is add for a frame that answers data of ours: such frames are free as
// long as there are no more of them than twice the data.
func (m *meter) spend(now int64, cost int) bool {
	if m.credit > 0 {
		m.credit--
		return true
	}
	return m.add(now, cost)
}

// earn counts a DATA frame, sent or received.
func (m *meter) earn() {
	if m.credit < 1000 {
		m.credit += 2
	}
}

func (m *meter) roll(now int64) {
	if now-m.started >= second {
		m.started, m.opened, m.resets = now, 0, 0
	}
}

func (m *meter) open(now int64) {
	m.roll(now)
	m.opened++
}

// reset counts a stream that ended early by the peer's doing, and reports
// whether that is bearable: not when more than half of at least resetFloor
// streams of a second end so (CVE-2023-44487), nor when twice as many as may be
// open at a time do, unless they are less than a quarter of all.
func (m *meter) reset(now int64, maxStreams int) bool {
	m.roll(now)
	m.resets++
	if m.opened >= resetFloor && m.resets*2 > m.opened {
		return false
	}
	return m.resets <= 2*maxStreams || m.resets*4 <= m.opened
}
