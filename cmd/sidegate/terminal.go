package main

import (
	"bytes"
	"context"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Keys that aren't characters.
const (
	keyUp byte = 0x80 + iota
	keyDown
	keyPageUp
	keyPageDown
)

const keyWait = 100 // milliseconds after which reading keys looks whether to go on

// terminal draws pictures on a terminal and reads its keys one by one.
type terminal struct {
	in, out *os.File
	before  unix.Termios
}

// openTerminal returns nil where there is no terminal to draw on.
func openTerminal(in, out *os.File) *terminal {
	state, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil || os.Getenv("TERM") == "dumb" {
		return nil
	}
	if _, err := unix.IoctlGetWinsize(int(out.Fd()), unix.TIOCGWINSZ); err != nil {
		return nil
	}
	return &terminal{in: in, out: out, before: *state}
}

// use runs f with a screen of its own, and puts everything back as it was, also when
// f panics.
func (t *terminal) use(f func() error) error {
	state := t.before
	state.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, &state); err != nil {
		return err
	}
	_, _ = t.out.WriteString("\x1b[?1049h\x1b[?25l") // nothing helps if it can't be written
	defer func() {
		_, _ = t.out.WriteString("\x1b[?25h\x1b[?1049l") // likewise
		_ = unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, &t.before)
	}()
	return f()
}

// size is the terminal's, in characters.
func (t *terminal) size() (width, height int) {
	w, err := unix.IoctlGetWinsize(int(t.out.Fd()), unix.TIOCGWINSZ)
	if err != nil || w.Col == 0 || w.Row == 0 {
		return 80, 24
	}
	return int(w.Col), int(w.Row)
}

// draw puts lines in the place of those before, without flicker. The heading of the
// table stands out.
func (t *terminal) draw(lines []string) {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		switch {
		case i == 0:
			b.WriteString("\x1b[1m" + line + "\x1b[0m")
		case isHeading(line):
			b.WriteString("\x1b[7m" + line + "\x1b[0m")
		default:
			b.WriteString(line)
		}
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, _ = t.out.Write(b.Bytes()) // the next picture comes soon
}

func isHeading(line string) bool {
	return strings.Contains(line, " REQ/S ")
}

// keys sends what is typed until ctx ends.
func (t *terminal) keys(ctx context.Context, to chan<- byte) {
	buf := make([]byte, 64)
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(t.in.Fd()), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, keyWait); n <= 0 || err != nil {
			continue
		}
		n, err := unix.Read(int(t.in.Fd()), buf)
		if n <= 0 || err != nil { // the terminal is gone
			select {
			case to <- 'q':
			case <-ctx.Done():
			}
			return
		}
		for _, k := range decodeKeys(buf[:n]) {
			select {
			case to <- k:
			case <-ctx.Done():
				return
			}
		}
	}
}

// decodeKeys makes one byte of each key; what it doesn't know is left out.
func decodeKeys(b []byte) (keys []byte) {
	for len(b) > 0 {
		if b[0] != 0x1b {
			if b[0] < 0x80 {
				keys = append(keys, b[0])
			}
			b = b[1:]
			continue
		}
		known := false
		for seq, k := range map[string]byte{"[A": keyUp, "[B": keyDown, "OA": keyUp, "OB": keyDown, "[5~": keyPageUp, "[6~": keyPageDown} {
			if rest, ok := bytes.CutPrefix(b[1:], []byte(seq)); ok {
				keys, b, known = append(keys, k), rest, true
				break
			}
		}
		if !known {
			return keys
		}
	}
	return keys
}
