// Package socket reads and writes TCP connections with few detours: its Conn
// calls the kernel from within RawConn's callbacks, with system calls that
// neither wait nor tell the scheduler, and takes a buffer only once there are
// bytes to read.
//
// It is for connections that HTTP/1.1 and TLS run on, from clients and to
// backends. It knows no protocol, pools no memory and starts no goroutine.
package socket
