package doctor

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

const (
	maxHosts = 100 // that are looked up
	maxTried = 5   // that are asked over HTTP
	atOnce   = 8
)

// hosts are the public names that routes have, without wildcards.
func (d *doctor) hosts() []string {
	var list []string
	for _, r := range d.file.Routes {
		for _, h := range r.Hosts {
			if !strings.HasPrefix(h, "*.") && !edgetls.PrivateName(h) {
				list = append(list, h)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// dns sees whether the hosts of the routes lead here.
func (d *doctor) dns(ctx context.Context) []Finding {
	hosts := d.hosts()
	if len(hosts) == 0 {
		return nil
	}
	ours, err := d.ours()
	if err != nil {
		return []Finding{warning("the addresses of this machine aren't known: %v", "", err)}
	}
	var needed []string // by ACME
	if app.Certificates(d.file).ACME != nil {
		needed = d.ordered()
	}
	more := max(0, len(hosts)-maxHosts)
	hosts = hosts[:len(hosts)-more]
	results := make([]Finding, len(hosts))
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, h := range hosts {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i] = d.name(ctx, h, ours, slices.Contains(needed, h))
		})
	}
	wg.Wait()
	if more > 0 {
		results = append(results, warning("%d further hosts weren't looked up", "", more))
	}
	return results
}

func (d *doctor) name(ctx context.Context, host string, ours []netip.Addr, needed bool) Finding {
	got, err := d.resolve(ctx, host)
	if err != nil {
		var not *net.DNSError
		switch notFound := errors.As(err, &not) && not.IsNotFound; {
		case notFound && needed:
			return fail("%s has no address", "Add an A or AAAA record that leads here; without one there is no certificate by ACME.", host)
		case notFound:
			return warning("%s has no address", "Add an A or AAAA record that leads here, unless clients find it in another way.", host)
		}
		return warning("%s couldn't be looked up: %v", "Is a resolver set in /etc/resolv.conf, and does it answer?", host, err)
	}
	var text []string
	for _, a := range got {
		a = a.Unmap()
		if slices.Contains(ours, a) {
			return good("%s leads to %s, which is this machine's", host, a)
		}
		text = append(text, a.String())
	}
	return warning("%s leads to %s, which no interface here has", "Right behind a load balancer or NAT that passes the ports on; else change the record.", host, strings.Join(text, ", "))
}

// interfaces are the addresses of this machine.
func interfaces() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out, nil
}

// acme sees whether certificates can be had: the authority answers, and comes
// through to a listener.
func (d *doctor) acme(ctx context.Context) []Finding {
	settings := app.Certificates(d.file)
	hosts := d.ordered()
	if settings.ACME == nil || len(hosts) == 0 {
		return nil
	}
	found := []Finding{d.directory(ctx, settings.ACME)}
	http01 := slices.Contains(settings.ACME.Challenges, "http-01")
	alpn := slices.Contains(settings.ACME.Challenges, "tls-alpn-01")
	plain, secure := d.listens(d.http01, false), d.listens("443", true)
	if !(http01 && plain != "" || alpn && secure != "") {
		return append(found, warning("no listener has a port that the authority comes to: %s for http-01, 443 for tls-alpn-01", "Add a listener there, or have those ports passed on to the listeners; else no certificate is issued.", d.http01))
	}
	if !http01 || plain == "" {
		return found
	}
	return append(found, d.reachable(ctx, plain, hosts[:min(len(hosts), maxTried)])...)
}

// ordered are the hosts that get certificates by ACME.
func (d *doctor) ordered() []string {
	var covered []*x509.Certificate
	for _, c := range d.file.TLS.Certificates {
		if pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err == nil {
			covered = append(covered, pair.Leaf)
		}
	}
	return slices.DeleteFunc(d.hosts(), func(h string) bool {
		return slices.ContainsFunc(covered, func(c *x509.Certificate) bool { return c.VerifyHostname(h) == nil })
	})
}

// listens is the address of the listener on a port; "": none.
func (d *doctor) listens(port string, secure bool) string {
	for _, l := range d.file.Listeners {
		if _, p, err := net.SplitHostPort(l.Address); err == nil && p == port && l.TLS == secure {
			return l.Address
		}
	}
	return ""
}

// acmeClient asks the authority.
func acmeClient(a *edgetls.ACMESettings) (*http.Client, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if a.CAFile != "" {
		b, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, err
		}
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
		conf.RootCAs.AppendCertsFromPEM(b)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}, nil
}

func (d *doctor) directory(ctx context.Context, a *edgetls.ACMESettings) Finding {
	advice := "The gateway has to reach that URL, by https, to get certificates: look at firewall, proxy (HTTPS_PROXY) and resolver."
	client, err := acmeClient(a)
	if err != nil {
		return fail("ca_file: %v", "", err)
	}
	body, _, err := get(ctx, client, a.Directory)
	if err != nil {
		return fail("%s doesn't answer: %v", advice, a.Directory, err)
	}
	var dir struct{ NewOrder string }
	if json.Unmarshal(body, &dir) != nil || dir.NewOrder == "" {
		return fail("%s answers, but isn't the directory of an ACME server", "Correct tls { acme { directory } }.", a.Directory)
	}
	return good("%s answers", a.Directory)
}

// get fetches a small document. The date is the server's; zero: it doesn't say.
func get(ctx context.Context, client *http.Client, url string) (body []byte, date time.Time, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, date, err
	}
	req.Header.Set("User-Agent", "sidegate doctor")
	resp, err := client.Do(req)
	if err != nil {
		return nil, date, cause(err)
	}
	defer resp.Body.Close()
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		date = t
	}
	if body, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10)); err != nil {
		return nil, date, err
	}
	if resp.StatusCode != http.StatusOK {
		return body, date, errors.New(resp.Status)
	}
	return body, date, nil
}

// cause is an error without the URL that it is about.
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		if _, ok := err.(*net.OpError); ok {
			return err
		}
		err = inner
	}
}

const challengePath = "/.well-known/acme-challenge/"

// reachable comes as the authority would. If the gateway runs, any answer of HTTP
// will do; if not, the doctor answers in its place for that moment.
func (d *doctor) reachable(ctx context.Context, address string, hosts []string) []Finding {
	token := ""
	if d.Running == nil {
		var b [16]byte
		rand.Read(b[:]) // never fails (crypto/rand)
		token = hex.EncodeToString(b[:])
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil // the ports check says so
		}
		s := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, token) })}
		done := make(chan struct{})
		go func() { // ends with Close
			defer close(done)
			_ = s.Serve(l) // always http.ErrServerClosed
		}()
		defer func() { _ = s.Close(); <-done }()
	}
	client := &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DisableKeepAlives: true, DialContext: d.dial},
	}
	var found []Finding
	for _, h := range hosts {
		found = append(found, d.come(ctx, client, h, token))
	}
	return found
}

// dial connects to a name as the doctor resolves it.
func (d *doctor) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	list, err := d.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		var conn net.Conn
		var dialer net.Dialer
		if conn, err = dialer.DialContext(ctx, network, net.JoinHostPort(a.Unmap().String(), port)); err == nil {
			return conn, nil
		}
	}
	if err == nil {
		err = errors.New("no address")
	}
	return nil, err
}

func (d *doctor) come(ctx context.Context, client *http.Client, host, token string) Finding {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout/2)
	defer cancel()
	authority := host
	if d.http01 != "80" {
		authority = net.JoinHostPort(host, d.http01)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+authority+challengePath+"sidegate-doctor", nil)
	if err != nil {
		return warning("%s: %v", "", host, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return warning("http://%s can't be reached from here: %v", "The authority has to come through to this port, if not by tls-alpn-01 to 443: look at DNS, firewall and port forwarding. Some routers don't let a machine reach itself this way.", authority, cause(err))
	}
	defer resp.Body.Close()
	if token == "" {
		return good("http://%s answers (%s)", authority, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil || string(b) != token {
		return fail("http://%s is answered by another machine or server", "The name has to lead to this gateway, or what it leads to has to pass "+challengePath+" on.", authority)
	}
	return good("http://%s leads to this machine", authority)
}

// instances sees whether those that the file lists take connections.
func (d *doctor) instances(ctx context.Context) []Finding {
	type instance struct{ service, address string }
	var list []instance
	for _, s := range d.file.Services {
		for _, a := range s.Instances {
			list = append(list, instance{s.Name, a})
		}
	}
	if len(list) == 0 {
		return nil
	}
	list = list[:min(len(list), maxHosts)]
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, in := range list {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, "tcp", in.address)
			if err == nil {
				err = conn.Close()
			}
			errs[i] = err
		})
	}
	wg.Wait()
	var found []Finding
	for i, err := range errs {
		if err != nil {
			found = append(found, warning("service %q: %s takes no connection: %v", "Start it, or correct the address.", list[i].service, list[i].address, err))
		}
	}
	if found == nil {
		found = append(found, good("the instances that are listed take connections: %d", len(list)))
	}
	return found
}

// text of a duration for people.
func roughly(d time.Duration) string {
	return fmt.Sprint(d.Round(time.Second))
}
