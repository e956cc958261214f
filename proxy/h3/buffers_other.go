//go:build !linux

package h3

import (
	"net"

	"github.com/sirupsen/logrus"
)

// widen leaves the buffers to quic-go.
func widen(*net.UDPConn, logrus.FieldLogger) {}
