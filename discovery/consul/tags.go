package consul

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/discovery"
)

// The prefixes that are read unless others are given. One that ends in a dot
// has our keys, any other Fabio's grammar.
const (
	ownPrefix   = "sidegate."
	fabioPrefix = "urlprefix-"
)

// Bounds of what one instance may claim.
const (
	maxTag        = 4096
	maxRoutes     = 64
	maxList       = 256
	maxProblems   = 32
	metaSeparator = ".-_" // Consul allows no dot in a meta key, so sidegate-host stands for sidegate.host
)

// drafts collects what one instance says, by route name.
type drafts struct {
	service, instance string
	routes            map[string]*draft
	problems          []discovery.Problem
}

// draft is a route being read. A bad tag spoils its route as a whole: half of
// what somebody wanted (without its policy, say) may be worse than nothing.
type draft struct {
	claim   discovery.Claim
	spoiled bool
	said    map[string]bool // the keys that may be given once
}

// parseClaims reads the tags and meta of one instance. Claims are sorted by
// route.
func parseClaims(service string, in discovery.Instance, prefixes []string) ([]discovery.Claim, []discovery.Problem) {
	d := &drafts{service: service, instance: in.ID, routes: make(map[string]*draft)}
	name := "" // of the route that has no name in its keys
	plain := make([]setting, 0, 8)
	for _, s := range d.settings(in, prefixes) {
		if s.route == "" && s.key == "route" {
			if !validName(s.value) || name != "" && name != s.value {
				d.spoil("", "%s: %.100q isn't a usable route name, or another was given", s.from, s.value)
				continue
			}
			name = s.value
			continue
		}
		plain = append(plain, s)
	}
	for _, s := range plain {
		if s.route == "" {
			s.route = name
		}
		d.apply(s)
	}
	if spoiled := d.routes[""]; name != "" && spoiled != nil && spoiled.spoiled {
		d.route(name).spoiled = true // what concerned the unnamed route concerns this one
	}
	for _, prefix := range prefixes {
		if !strings.HasSuffix(prefix, ".") {
			d.fabio(in.Tags, prefix)
		}
	}
	var claims []discovery.Claim
	for _, route := range slices.Sorted(maps.Keys(d.routes)) {
		if r := d.routes[route]; !r.spoiled {
			claims = append(claims, r.claim)
		}
	}
	return claims, d.problems
}

// setting is one key of one route.
type setting struct {
	route, key, value string
	from              string // the tag or meta key, for problems
}

// settings finds our keys in tags and meta, in a stable order.
func (d *drafts) settings(in discovery.Instance, prefixes []string) []setting {
	var list []setting
	for _, prefix := range prefixes {
		base, own := strings.CutSuffix(prefix, ".")
		if !own {
			continue
		}
		for _, tag := range in.Tags {
			rest, ours := strings.CutPrefix(tag, prefix)
			if !ours {
				continue
			}
			key, value, found := strings.Cut(rest, "=")
			from := fmt.Sprintf("tag %.100q", tag)
			if !found || len(tag) > maxTag {
				d.spoil("", "%s: must be %sKEY=VALUE, of at most %d bytes", from, prefix, maxTag)
				continue
			}
			route, key := cutLast(key, ".")
			list = append(list, setting{route, key, value, from})
		}
		for _, k := range slices.Sorted(maps.Keys(in.Meta)) {
			rest, ours := strings.CutPrefix(k, base)
			if !ours || rest == "" || !strings.Contains(metaSeparator, rest[:1]) || ofSidecar(k) {
				continue
			}
			route, key := cutLast(rest[1:], metaSeparator)
			list = append(list, setting{route, key, in.Meta[k], fmt.Sprintf("meta %.100q", k)})
		}
	}
	return list
}

// ofSidecar reports whether a meta key is one by which a sidecar tells of itself: it
// routes nothing.
func ofSidecar(key string) bool { return key == "sidegate-owner" || key == "sidegate-identity" }

// cutLast parts "name.key" at the last of the separators.
func cutLast(s, separators string) (name, key string) {
	if i := strings.LastIndexAny(s, separators); i >= 0 {
		return s[:i], s[i+1:]
	}
	return "", s
}

func (d *drafts) route(name string) *draft {
	r := d.routes[name]
	if r == nil {
		r = &draft{said: make(map[string]bool)}
		r.claim = discovery.Claim{Service: d.service, Instance: d.instance, Route: name}
		if len(d.routes) >= maxRoutes {
			r.spoiled = true // told by apply; not kept
			return r
		}
		d.routes[name] = r
	}
	return r
}

// spoil tells a problem and drops the route it concerns.
func (d *drafts) spoil(route, format string, args ...any) {
	d.route(route).spoiled = true
	d.problem(format, args...)
}

func (d *drafts) problem(format string, args ...any) {
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, discovery.Problem{Service: d.service, Instance: d.instance, Text: fmt.Sprintf(format, args...)})
	}
}

// apply puts one setting in its route.
func (d *drafts) apply(s setting) {
	if s.route != "" && !validName(s.route) {
		d.problem("%s: %.100q isn't a usable route name", s.from, s.route)
		return
	}
	if len(d.routes) >= maxRoutes && d.routes[s.route] == nil {
		d.problem("%s: more than %d routes", s.from, maxRoutes)
		return
	}
	if err := d.route(s.route).set(s.key, s.value); err != nil {
		d.spoil(s.route, "%s: %v", s.from, err)
	}
}

// set is one key's meaning.
func (r *draft) set(key, value string) error {
	c := &r.claim
	switch key {
	case "host":
		return addList(&c.Hosts, value, host)
	case "path":
		return addList(&c.Paths, value, path)
	case "use":
		return addList(&c.Use, value, bundle)
	case "strip", "weight", "protocol":
	default:
		return fmt.Errorf("unknown key %.100q; known: host, path, use, strip, weight, protocol, route", key)
	}
	value = strings.TrimSpace(value)
	if r.said[key] {
		return fmt.Errorf("%s is given twice", key)
	}
	r.said[key] = true
	switch key {
	case "strip":
		return setStrip(c, value)
	case "weight":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > maxWeight {
			return fmt.Errorf("weight %.100q must be 1 to %d", value, maxWeight)
		}
		c.Weight = n
	case "protocol":
		if !slices.Contains([]string{"http1", "h2c", "https", "h2"}, value) {
			return fmt.Errorf("protocol %.100q must be http1, h2c, https or h2", value)
		}
		c.Protocol = value
	}
	return nil
}

func setStrip(c *discovery.Claim, value string) error {
	p, err := path(value)
	if err != nil || strings.ContainsAny(p, "*{}") {
		return fmt.Errorf("strip %.100q must be a path such as /orders", value)
	}
	c.Strip = p
	return nil
}

// addList adds the elements of a comma list to what is there.
func addList(to *[]string, value string, check func(string) (string, error)) error {
	for v := range strings.SplitSeq(value, ",") {
		v, err := check(strings.TrimSpace(v))
		if err != nil {
			return err
		}
		if slices.Contains(*to, v) {
			continue
		}
		if len(*to) >= maxList {
			return fmt.Errorf("more than %d elements", maxList)
		}
		*to = append(*to, v)
	}
	return nil
}

// host checks a host name, exact or *.suffix, and gives it in lower case.
func host(s string) (string, error) {
	bad := fmt.Errorf("host %.100q must be a name such as api.example.com or *.example.com, without a port", s)
	s = strings.ToLower(s)
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		return ip.String(), nil
	}
	name := strings.TrimPrefix(s, "*.")
	if name == "" || len(name) > 253 {
		return "", bad
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || !onlyChars(label, "-_") {
			return "", bad
		}
	}
	return s, nil
}

// path checks a path of the configuration language: exact, a prefix that ends
// in /*, with {parameters}.
func path(s string) (string, error) {
	body := strings.TrimSuffix(s, "/*")
	bad := !strings.HasPrefix(s, "/") || len(s) > 1024 || strings.ContainsAny(body, "*?#\\ \"<>^`|") || strings.Contains(body, "//")
	for i := range len(s) {
		bad = bad || s[i] < ' ' || s[i] >= 0x7f
	}
	for segment := range strings.SplitSeq(body, "/") {
		bad = bad || segment == "." || segment == ".."
	}
	if bad {
		return "", fmt.Errorf("path %.100q must begin with / and be exact, or end in /*", s)
	}
	return s, nil
}

func bundle(s string) (string, error) {
	if s == "" || len(s) > 128 || !onlyChars(s, "-_.") {
		return "", fmt.Errorf("policy %.100q isn't a usable name", s)
	}
	return s, nil
}

// validName says whether s may name a route in a key.
func validName(s string) bool {
	reserved := []string{"host", "path", "use", "strip", "weight", "protocol", "route"}
	return s != "" && len(s) <= 64 && onlyChars(s, "-_") && !slices.Contains(reserved, s)
}

// onlyChars says whether s has only ASCII letters, digits and those of more.
func onlyChars(s, more string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.Contains(more, s[i:i+1]) {
			return false
		}
	}
	return true
}
