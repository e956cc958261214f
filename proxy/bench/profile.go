package main

import (
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// profile writes a CPU profile of sidegate, with policies, under each kind of
// load: what the compiler is told of when the binary is built.
func (b *bed) profile(o options) error {
	const name = "sidegate-profile"
	p, err := b.get(name)
	if err != nil {
		return err
	}
	key := []string{"X-API-Key: " + apiKey}
	for _, w := range []struct {
		work
		port string
	}{
		{work{tool: "wrk", path: "/small", conns: 64, headers: key}, "plain"},
		{work{tool: "wrk", path: "/small", conns: 64, headers: append(key, browser...)}, "plain"},
		{work{tool: "wrk", tls: true, path: "/small", conns: 64, headers: append(key, browser...)}, "tls"},
		{work{tool: "h2load", tls: true, path: "/small", conns: 16, streams: 16, headers: key}, "tls"},
		{work{tool: "http3", conns: 16, streams: 16}, "quic"},
		{work{tool: "handshake", conns: 8}, "tls"},
	} {
		if _, _, err := b.load(w.work, p.ports[w.port], time.Duration(o.rounds)*o.length/2); err != nil {
			return err
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = p.cmd.Wait() // the profile tells whether it ended well
	b.forget(p)
	data, err := os.ReadFile(filepath.Join(b.dir, "cpu.pprof"))
	if err != nil {
		return err
	}
	return os.WriteFile(o.profile, data, 0o644)
}
