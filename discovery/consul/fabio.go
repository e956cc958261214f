package consul

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// fabio reads Fabio's tags: urlprefix-HOST/PATH with options after spaces.
//
// A path is a prefix there; ours ends in /* and so /foo doesn't take /foobar,
// which Fabio did. A weight is a share of traffic from 0 to 1; it becomes
// hundredths. The route's name is HOST/PATH. An option that we don't have
// (allow=, deny= and auth= guard a route) drops the route and is told, as to
// ignore it could open what was closed.
func (d *drafts) fabio(tags []string, prefix string) {
	for _, tag := range tags {
		rest, found := strings.CutPrefix(tag, prefix)
		if !found {
			continue
		}
		c := discovery.Claim{Service: d.service, Instance: d.instance}
		err := fabioTag(&c, rest)
		switch {
		case err != nil:
		case len(tag) > maxTag:
			err = fmt.Errorf("longer than %d bytes", maxTag)
		case d.routes[c.Route] != nil:
			err = errors.New("the same host and path are claimed twice")
			d.routes[c.Route].spoiled = true
		case len(d.routes) >= maxRoutes:
			err = fmt.Errorf("more than %d routes", maxRoutes)
		default:
			d.routes[c.Route] = &draft{claim: c}
		}
		if err != nil {
			d.problem("tag %.100q: %v", tag, err)
		}
	}
}

func fabioTag(c *discovery.Claim, s string) error {
	fields := strings.Fields(s)
	if len(fields) == 0 || strings.HasPrefix(s, " ") {
		return errors.New("names no host and path")
	}
	for _, o := range fields[1:] {
		if key, value, found := strings.Cut(o, "="); found && key == "proto" && strings.HasPrefix(value, "tcp") {
			return fmt.Errorf("proto=%.20s isn't supported, only HTTP is", value)
		}
	}
	if strings.HasPrefix(fields[0], ":") {
		return errors.New("a port alone means TCP, which isn't supported")
	}
	name, p, found := strings.Cut(fields[0], "/")
	if !found {
		return errors.New("must be HOST/PATH; the slash is missing")
	}
	if name != "" {
		h, err := host(name)
		if err != nil {
			return err
		}
		c.Hosts = []string{h}
		name = h
	}
	if err := fabioPath(c, "/"+p); err != nil {
		return err
	}
	c.Route = name + "/" + p
	for _, o := range fields[1:] {
		if err := fabioOption(c, o); err != nil {
			return err
		}
	}
	return nil
}

// fabioPath makes our patterns of a prefix.
func fabioPath(c *discovery.Claim, p string) error {
	if _, err := path(p); err != nil || strings.ContainsAny(p, "*{}") {
		return fmt.Errorf("path %.100q isn't a plain prefix", p)
	}
	exact := strings.TrimSuffix(p, "/")
	c.Paths = []string{exact + "/*"}
	if exact != "" {
		c.Paths = []string{exact, exact + "/*"}
	}
	return nil
}

func fabioOption(c *discovery.Claim, option string) error {
	key, value, _ := strings.Cut(option, "=")
	switch key {
	case "strip":
		return setStrip(c, value)
	case "weight":
		w, err := strconv.ParseFloat(value, 64)
		if err != nil || !(w >= 0 && w <= 1) {
			return fmt.Errorf("weight %.20q must be 0 to 1", value)
		}
		if w > 0 { // 0 means the rest, as if it weren't given
			c.Weight = max(1, int(math.Round(w*100)))
		}
	case "proto":
		protocols := map[string]string{"http": "http1", "https": "https", "grpc": "h2c", "grpcs": "h2"}
		if c.Protocol = protocols[value]; c.Protocol == "" {
			return fmt.Errorf("proto=%.20s isn't supported", value)
		}
	case "redirect":
		return fabioRedirect(c, value)
	default:
		return fmt.Errorf("option %.40q isn't supported", option)
	}
	return nil
}

// fabioRedirect reads CODE,URL. Fabio's $path is our {path}.
func fabioRedirect(c *discovery.Claim, value string) error {
	code, to, found := strings.Cut(value, ",")
	status, err := strconv.Atoi(code)
	if err != nil || !found || status < 300 || status > 399 {
		return fmt.Errorf("redirect=%.100s must be CODE,URL with a code from 300 to 399", value)
	}
	to = strings.ReplaceAll(to, "$path", "{path}")
	u, err := url.Parse(strings.ReplaceAll(to, "{path}", ""))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.ContainsAny(to, "$\"<>\\^`|") {
		return fmt.Errorf("redirect to %.100q: must be an http or https URL; of Fabio's variables only $path is known", to)
	}
	c.Redirect, c.Status = to, status
	return nil
}
