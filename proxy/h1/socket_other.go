//go:build !linux

package h1

import "syscall"

func counter(syscall.RawConn, bool) uint64 { return 0 }

func hungUp(syscall.RawConn, bool) bool { return false }

func quiet(uintptr) bool { return true }
