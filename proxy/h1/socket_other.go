//go:build !linux

package h1

import "github.com/sidegate-proxy/sidegate/proxy/socket"

func counter(*socket.Conn, bool) uint64 { return 0 }

func hungUp(*socket.Conn, bool) bool { return false }

func empty(*socket.Conn) bool { return true }

func quiet(uintptr) bool { return true }
