package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidegate-proxy/sidegate/proxy"
)

// collector shows the gateway's counters to Prometheus. Everything is read when
// it is asked for; labels are bounded by the configuration: routes, services
// and their instances, listeners.
type collector struct{ app *App }

var _ prometheus.Collector = (*collector)(nil)

// descs are the metrics. They are made for each collection: a few microseconds
// every some seconds, and no package-level state.
type descs struct {
	build, requests, duration, upstream, in, out, faults                *prometheus.Desc
	conns, busy, accepted, refused, handshakes                          *prometheus.Desc
	instances, pending, latency, tries, failures, retries, queue, panic *prometheus.Desc
	consulUp, consulAge, stale, problems                                *prometheus.Desc
	overRate, overRateDry, forgotten                                    *prometheus.Desc
	keys, keysAge, keysFailed, signatures, passwords, passwordsBusy     *prometheus.Desc
	bans, banned                                                        *prometheus.Desc
	invalid, invalidPassed, wrongResponses, unseenResponses             *prometheus.Desc
	certificate, reloads, rejected, logDropped                          *prometheus.Desc
}

func newDescs() *descs {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sidegate_"+name, help, labels, nil)
	}
	return &descs{
		build:         d("build_info", "The version that runs.", "version"),
		requests:      d("requests_total", "Requests answered, by class of status (0xx: none was sent).", "route", "service", "code"),
		duration:      d("request_duration_seconds", "Time from a request's head to its end.", "route", "service"),
		upstream:      d("upstream_wait_seconds_total", "Time spent waiting for response heads.", "route", "service"),
		in:            d("request_bytes_total", "Body bytes received from clients.", "route", "service"),
		out:           d("response_bytes_total", "Body bytes sent to clients.", "route", "service"),
		faults:        d("faults_total", "Exchanges that ended in a fault.", "kind"),
		conns:         d("connections", "Client connections open.", "listener"),
		busy:          d("requests_in_flight", "Requests in flight.", "listener"),
		accepted:      d("connections_accepted_total", "Client connections accepted.", "listener"),
		refused:       d("connections_refused_total", "Client connections refused: over a limit, or without a PROXY header.", "listener"),
		handshakes:    d("handshake_failures_total", "TLS handshakes that failed.", "listener"),
		instances:     d("instances", "Instances of a service.", "service", "state"),
		pending:       d("instance_requests_in_flight", "Requests in flight at an instance.", "service", "instance"),
		latency:       d("instance_latency_seconds", "Latency of an instance as the balancer sees it (peak EWMA).", "service", "instance"),
		tries:         d("instance_requests_total", "Tries at an instance.", "service", "instance"),
		failures:      d("instance_failures_total", "Tries at an instance that failed.", "service", "instance"),
		retries:       d("retries_refused_total", "Further tries that the retry budget forbade.", "service"),
		queue:         d("queued_requests", "Requests that wait for an instance with room.", "service"),
		panic:         d("panic", "1 while so few instances are healthy that health is ignored.", "service"),
		consulUp:      d("consul_up", "1 while Consul answers."),
		consulAge:     d("consul_last_answer_age_seconds", "Time since Consul last answered."),
		stale:         d("services_stale", "Services that are served from the last known instances."),
		problems:      d("configuration_problems", "Parts of registrations and KV that are left out."),
		overRate:      d("rate_limit_refused_total", "Requests that a rate limit refused.", "route", "limit"),
		overRateDry:   d("rate_limit_dry_run_refused_total", "Requests that a rate limit would have refused, were it not a dry run.", "route", "limit"),
		forgotten:     d("rate_limit_forgotten_total", "Clients whose counter made room for another before its time: counters.memory is too small."),
		keys:          d("issuer_keys", "Keys of an issuer of tokens.", "issuer"),
		keysAge:       d("issuer_keys_age_seconds", "Time since an issuer's keys were last fetched.", "issuer"),
		keysFailed:    d("issuer_keys_failures_total", "Fetches of an issuer's keys that failed.", "issuer"),
		signatures:    d("token_signatures_checked_total", "Signatures of tokens that were checked: those of tokens that weren't remembered."),
		passwords:     d("password_checks_total", "Passwords that were checked: those that weren't remembered."),
		passwordsBusy: d("password_checks_refused_total", "Requests refused because too many passwords were being checked."),
		certificate:   d("certificate_not_after_seconds", "When a certificate ends, in seconds since 1970.", "name", "source"),
		reloads:       d("configuration_reloads_total", "Reloads that succeeded."),
		rejected:      d("configuration_rejected", "1 while the newest configuration isn't in force because of an error."),
		logDropped:    d("access_log_dropped_total", "Lines that the access log's output was too slow for."),
		bans:          d("bans", "Addresses that are banned."),
		banned:        d("bans_total", "Bans that a route has caused.", "route"),

		invalid:         d("validate_refused_total", "Requests refused because they weren't as the route's document has them.", "route"),
		invalidPassed:   d("validate_reported_total", "Requests that weren't as the route's document has them, and were let pass.", "route"),
		wrongResponses:  d("validate_responses_reported_total", "Responses that weren't as the route's document has them.", "route"),
		unseenResponses: d("validate_responses_unseen_total", "Responses that were too large or compressed to be compared with the route's document.", "route"),
	}
}

// Describe says nothing: the metrics depend on the configuration.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads all counters.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	a, d := c.app, newDescs()
	count := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, v, labels...)
	}
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	gauge(d.build, 1, a.opt.Version)
	for _, t := range a.stats.Totals() {
		c.route(ch, d, &t)
	}
	for kind, n := range a.stats.Faults() {
		count(d.faults, float64(n), string(kind))
	}
	for _, l := range a.server.Status() {
		gauge(d.conns, float64(l.Connections), l.Name)
		gauge(d.busy, float64(l.Busy), l.Name)
		count(d.accepted, float64(l.Accepted), l.Name)
		count(d.refused, float64(l.Refused), l.Name)
		count(d.handshakes, float64(l.Handshakes), l.Name)
	}
	c.services(d, count, gauge)
	for _, l := range a.counters.Counts() {
		desc := d.overRate
		if l.DryRun {
			desc = d.overRateDry
		}
		count(desc, float64(l.Refused()), l.Route, l.Limit)
	}
	count(d.forgotten, float64(a.counters.Forgotten()))
	c.issuers(d, count, gauge)
	checks, busy := a.passwords.Checks()
	count(d.passwords, float64(checks))
	count(d.passwordsBusy, float64(busy))
	gauge(d.bans, float64(len(a.bans.List(time.Now()))))
	for route, n := range a.bans.Counts() {
		count(d.banned, float64(n), route)
	}
	for _, v := range a.described.Counts() {
		count(d.invalid, float64(v.Refused), v.Route)
		count(d.invalidPassed, float64(v.Reported), v.Route)
		count(d.wrongResponses, float64(v.Wrong), v.Route)
		count(d.unseenResponses, float64(v.Unseen), v.Route)
	}
	if s := a.consulStatus(); s != nil {
		gauge(d.consulUp, number(s.Connected))
		gauge(d.consulAge, s.Age.Seconds())
		gauge(d.stale, float64(len(a.stale())))
	}
	gauge(d.problems, float64(len(a.view.problems())))
	seen := map[[2]string]bool{}
	for _, s := range a.certs.Status() {
		if len(s.Names) == 0 || s.NotAfter.IsZero() || seen[[2]string{s.Names[0], s.Source}] {
			continue
		}
		seen[[2]string{s.Names[0], s.Source}] = true
		gauge(d.certificate, float64(s.NotAfter.Unix()), s.Names[0], s.Source)
	}
	a.view.mu.Lock()
	reloads, rejected := a.view.reloads, a.view.rejectedBy != ""
	a.view.mu.Unlock()
	count(d.reloads, float64(reloads))
	gauge(d.rejected, number(rejected))
	if a.accessLog != nil {
		count(d.logDropped, float64(a.accessLog.Dropped()))
	}
}

func (c *collector) route(ch chan<- prometheus.Metric, d *descs, t *proxy.RouteTotals) {
	for class, n := range t.Classes {
		if n > 0 {
			ch <- prometheus.MustNewConstMetric(d.requests, prometheus.CounterValue, float64(n), t.Route, t.Service, string(rune('0'+class))+"xx")
		}
	}
	if t.Requests == 0 {
		return
	}
	buckets := make(map[float64]uint64, len(proxy.Buckets))
	var sum uint64
	for i, bound := range proxy.Buckets {
		sum += t.LatencyBuckets[i]
		buckets[bound] = sum
	}
	ch <- prometheus.MustNewConstHistogram(d.duration, t.Requests, t.Seconds, buckets, t.Route, t.Service)
	ch <- prometheus.MustNewConstMetric(d.upstream, prometheus.CounterValue, t.UpstreamSeconds, t.Route, t.Service)
	ch <- prometheus.MustNewConstMetric(d.in, prometheus.CounterValue, float64(t.BytesIn), t.Route, t.Service)
	ch <- prometheus.MustNewConstMetric(d.out, prometheus.CounterValue, float64(t.BytesOut), t.Route, t.Service)
}

type emit func(desc *prometheus.Desc, v float64, labels ...string)

func (c *collector) services(d *descs, count, gauge emit) {
	now := time.Now()
	for _, s := range c.app.group.Status() {
		states := map[string]int{"eligible": 0, "ejected": 0, "unhealthy": 0}
		for _, i := range s.Instances {
			switch {
			case i.EjectedUntil.After(now):
				states["ejected"]++
			case i.Eligible:
				states["eligible"]++
			default:
				states["unhealthy"]++
			}
			gauge(d.pending, float64(i.Pending), s.Service, i.Address)
			gauge(d.latency, i.Latency.Seconds(), s.Service, i.Address)
			count(d.tries, float64(i.Requests), s.Service, i.Address)
			count(d.failures, float64(i.Failures), s.Service, i.Address)
		}
		for state, n := range states {
			gauge(d.instances, float64(n), s.Service, state)
		}
		count(d.retries, float64(s.OverBudget), s.Service)
		gauge(d.queue, float64(s.Queue), s.Service)
		gauge(d.panic, number(s.Panic), s.Service)
	}
}

// issuers shows the keys of each issuer; of one that has several sources, the
// oldest.
func (c *collector) issuers(d *descs, count, gauge emit) {
	type sum struct {
		keys     int
		age      float64
		failures uint64
	}
	sums := map[string]*sum{}
	for _, k := range c.app.keysets.Status() {
		s := sums[k.Issuer]
		if s == nil {
			s = &sum{}
			sums[k.Issuer] = s
		}
		s.keys += k.Keys
		s.failures += k.Failures
		if !k.Fetched.IsZero() {
			s.age = max(s.age, time.Since(k.Fetched).Seconds())
		}
	}
	for issuer, s := range sums {
		gauge(d.keys, float64(s.keys), issuer)
		count(d.keysFailed, float64(s.failures), issuer)
		if s.keys > 0 {
			gauge(d.keysAge, s.age, issuer)
		}
	}
	if len(sums) > 0 {
		count(d.signatures, float64(c.app.tokens.Checked()))
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
