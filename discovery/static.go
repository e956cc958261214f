package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of the fixed list.
const (
	maxStatic      = 4096             // instances in a list, and addresses of all its names
	resolveEvery   = 30 * time.Second // how often names are looked up again
	resolveTimeout = 5 * time.Second  // for one name
	retryFirst     = time.Second      // after a failed look-up, doubling to resolveEvery
)

// static is a fixed list. Names in it are looked up again and again.
type static struct {
	fixed  []Instance
	names  []hostPort
	host   *Host
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	after  func(time.Duration) <-chan time.Time
}

type hostPort struct{ host, port string }

// unixPrefix begins an instance that is the path of a unix socket.
const unixPrefix = "unix://"

// Static makes a source of a fixed list of host:port, or unix:// and the path of a
// socket. Host names are looked up
// every 30 s; each address of a name is an instance. A name that can't be
// looked up keeps the addresses it had, and doesn't hold up the others.
func Static(instances []string) (Source, error) {
	s := &static{host: new(Host), after: time.After}
	s.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	if len(instances) == 0 {
		return nil, errors.New("instances: none given")
	}
	if len(instances) > maxStatic {
		return nil, fmt.Errorf("instances: %d given, at most %d allowed", len(instances), maxStatic)
	}
	var errs []error
	seen := make(map[string]bool, len(instances))
	for _, in := range instances {
		if path, ok := strings.CutPrefix(in, unixPrefix); ok && strings.HasPrefix(path, "/") {
			if seen[in] {
				errs = append(errs, fmt.Errorf("instance %q: given twice", in))
			}
			seen[in] = true
			s.fixed = append(s.fixed, Instance{ID: in, Address: in, Node: "localhost", Local: true, Weight: 1})
			continue
		}
		hp, ip, err := parseHostPort(in)
		if err == nil && seen[hp.host+" "+hp.port] {
			err = fmt.Errorf("instance %q: given twice", in)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seen[hp.host+" "+hp.port] = true
		if ip.IsValid() {
			s.fixed = append(s.fixed, s.instance(hp.host, ip, hp.port))
		} else {
			s.names = append(s.names, hp)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

// parseHostPort checks one entry; ip is invalid when the host is a name.
func parseHostPort(in string) (hp hostPort, ip netip.Addr, err error) {
	host, port, err := net.SplitHostPort(in)
	if err != nil {
		return hp, ip, fmt.Errorf("instance %q: must be host:port", in)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return hp, ip, fmt.Errorf("instance %q: port must be 1 to 65535", in)
	}
	hp = hostPort{host: strings.ToLower(host), port: strconv.FormatUint(n, 10)}
	if ip, err = netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		hp.host = ip.String()
		return hp, ip, nil
	}
	if !validHostName(hp.host) {
		return hp, ip, fmt.Errorf("instance %q: %q is neither an address nor a host name", in, host)
	}
	return hp, netip.Addr{}, nil
}

// validHostName is RFC 1123's rule, with the underscore that Consul's DNS and
// many internal zones use. A name of digits and dots is a mistyped address.
func validHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func (s *static) instance(node string, ip netip.Addr, port string) Instance {
	address := net.JoinHostPort(ip.String(), port)
	return Instance{ID: address, Address: address, Node: node, Local: s.host.Has(address), Weight: 1}
}

// Watch reports the list, and again when the addresses of a name change.
func (s *static) Watch(ctx context.Context, _ Query, update func([]Instance)) error {
	if len(s.names) == 0 {
		update(slices.Clone(s.fixed))
		<-ctx.Done()
		return nil
	}
	known := make(map[hostPort][]netip.Addr, len(s.names))
	var last []Instance
	retry := retryFirst
	for {
		failed := s.resolve(ctx, known)
		if ctx.Err() != nil {
			return nil
		}
		if set := s.merge(known); len(set) > 0 && !slices.EqualFunc(set, last, sameInstance) {
			last = set
			update(slices.Clone(set))
		}
		pause := resolveEvery
		if failed {
			pause, retry = retry, min(2*retry, resolveEvery)
		} else {
			retry = retryFirst
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.after(jitter(pause)):
		}
	}
}

// resolve looks every name up, a bounded number at once, and keeps what was
// known of those that fail.
func (s *static) resolve(ctx context.Context, known map[hostPort][]netip.Addr) (failed bool) {
	type answer struct {
		name  hostPort
		addrs []netip.Addr
	}
	answers := make(chan answer, len(s.names))
	slots := make(chan struct{}, 16)
	for _, name := range s.names {
		go func() { // ends by resolveTimeout; counted in below
			slots <- struct{}{}
			defer func() { <-slots }()
			c, cancel := context.WithTimeout(ctx, resolveTimeout)
			defer cancel()
			addrs, err := s.lookup(c, name.host)
			if err != nil {
				addrs = nil
			}
			answers <- answer{name, addrs}
		}()
	}
	for range s.names {
		a := <-answers
		if len(a.addrs) == 0 {
			failed = true
			continue
		}
		known[a.name] = a.addrs
	}
	return failed
}

func (s *static) merge(known map[hostPort][]netip.Addr) []Instance {
	set := slices.Clone(s.fixed)
	seen := make(map[string]bool, len(set))
	for _, in := range set {
		seen[in.ID] = true
	}
	for _, name := range s.names {
		for _, ip := range known[name] {
			in := s.instance(name.host, ip.Unmap(), name.port)
			if !seen[in.ID] && len(set) < maxStatic {
				seen[in.ID] = true
				set = append(set, in)
			}
		}
	}
	slices.SortFunc(set, func(a, b Instance) int { return strings.Compare(a.ID, b.ID) })
	return set
}

// sameInstance compares what static instances differ in.
func sameInstance(a, b Instance) bool {
	return a.ID == b.ID && a.Node == b.Node && a.Local == b.Local
}

// jitter spreads a pause over its last tenth.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/10+1)
}
