package shared

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Check reports what is wrong with a block by itself.
func (c *RedisConfig) Check() error {
	var errs error
	if path, unix := cutUnix(c.Address); unix {
		if !strings.HasPrefix(path, "/") {
			errs = errors.New("address: the path of a unix socket starts with /")
		}
		if c.TLS != nil {
			errs = errors.Join(errs, errors.New("tls: a unix socket needs none"))
		}
	} else if h, p, err := net.SplitHostPort(c.Address); err != nil || h == "" || strings.ContainsAny(h, "/@ ") {
		errs = fmt.Errorf("address: %.100q isn't host:port, nor unix:///path", c.Address)
	} else if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
		errs = fmt.Errorf("address: %.100q has no port", c.Address)
	}
	if c.Username != "" && c.Password == "" {
		errs = errors.Join(errs, errors.New("username: without a password"))
	}
	return errs
}

func cutUnix(address string) (path string, ok bool) { return strings.CutPrefix(address, "unix://") }

func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}
