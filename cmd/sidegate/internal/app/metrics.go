package app

import (
	"encoding/hex"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/memory"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
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
	overRate, overRateDry, rateErrors, forgotten                        *prometheus.Desc
	adaptive, adaptiveUsed, atEase, shed                                *prometheus.Desc
	keys, keysAge, keysFailed, signatures, passwords, passwordsBusy     *prometheus.Desc
	logins, sessions                                                    *prometheus.Desc
	authCalls, authFailed, authBusy                                     *prometheus.Desc
	abusive                                                             *prometheus.Desc
	bans, banned                                                        *prometheus.Desc
	memoryUsed, memoryLimit, memoryLevel, memoryRefused, memoryTurned   *prometheus.Desc
	consumers, apiKeys, consumersAge, untold                            *prometheus.Desc
	inspected, attacks, unseen, inspecting, wafBusy, auditDropped       *prometheus.Desc
	cacheAnswers, cacheStored, cacheBytes, cacheMemory, cacheItems      *prometheus.Desc
	cachePurged, cacheAge, cacheRefused, purgesWait                     *prometheus.Desc
	cacheEncoded                                                        *prometheus.Desc
	invalid, invalidPassed, wrongResponses, unseenResponses             *prometheus.Desc
	encoded, encodedIn, encodedOut, notEncoded, encoders                *prometheus.Desc
	certificate, reloads, rejected, logDropped                          *prometheus.Desc
	spans, exportFailures, spansWaiting                                 *prometheus.Desc
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
		adaptive:      d("adaptive_limit", "Requests that a service works on at once, as its latency says.", "service"),
		adaptiveUsed:  d("adaptive_limit_in_flight", "Requests that count for that limit.", "service"),
		atEase:        d("adaptive_limit_baseline_seconds", "Latency of a service at ease.", "service"),
		shed:          d("shed_total", "Requests refused at a service's adaptive limit.", "service", "priority"),
		consulUp:      d("consul_up", "1 while Consul answers."),
		consulAge:     d("consul_last_answer_age_seconds", "Time since Consul last answered."),
		stale:         d("services_stale", "Services that are served from the last known instances."),
		problems:      d("configuration_problems", "Parts of registrations and KV that are left out."),
		overRate:      d("rate_limit_refused_total", "Requests that a rate limit refused.", "route", "limit"),
		overRateDry:   d("rate_limit_dry_run_refused_total", "Requests that a rate limit would have refused, were it not a dry run.", "route", "limit"),
		rateErrors:    d("rate_limit_errors_total", "Expressions of rate limits that had no value, and claims that aren't rates.", "route", "limit"),
		forgotten:     d("rate_limit_forgotten_total", "Clients whose counter made room for another before its time: counters.memory is too small."),
		keys:          d("issuer_keys", "Keys of an issuer of tokens.", "issuer"),
		keysAge:       d("issuer_keys_age_seconds", "Time since an issuer's keys were last fetched.", "issuer"),
		keysFailed:    d("issuer_keys_failures_total", "Fetches of an issuer's keys that failed.", "issuer"),
		signatures:    d("token_signatures_checked_total", "Signatures of tokens that were checked: those of tokens that weren't remembered."),
		passwords:     d("password_checks_total", "Passwords that were checked: those that weren't remembered."),
		passwordsBusy: d("password_checks_refused_total", "Requests refused because too many passwords were being checked."),
		authCalls:     d("auth_service_requests_total", "Requests to a service that decides who may call.", "url"),
		authFailed:    d("auth_service_failures_total", "Those of them without an answer: refused for too many others, too late, 5xx.", "url"),
		authBusy:      d("auth_service_requests_in_flight", "Those of them that are under way.", "url"),
		memoryUsed:    d("memory_used_bytes", "Memory used, of the limit that is nearest.", "limit_of"),
		memoryLimit:   d("memory_limit_bytes", "The limit that is nearest.", "limit_of"),
		memoryLevel:   d("memory_level", "0: there is enough; 1: scarce, low priority is refused; 2: full, everything new is."),
		memoryRefused: d("memory_refused_total", "Requests refused for want of memory, by the level.", "level"),
		memoryTurned:  d("memory_connections_refused_total", "Connections refused for want of memory."),
		logins:        d("logins_total", "Browsers sent to a provider to log in, and what became of logins.", "issuer", "outcome"),
		sessions:      d("login_sessions_total", "What became of sessions: renewed, not_renewed (the provider takes it back, or doesn't answer), ended by their users.", "issuer", "outcome"),
		certificate:   d("certificate_not_after_seconds", "When a certificate ends, in seconds since 1970; of those with the source on-demand or local, the first that does.", "name", "source"),
		reloads:       d("configuration_reloads_total", "Reloads that succeeded."),
		rejected:      d("configuration_rejected", "1 while the newest configuration isn't in force because of an error."),
		logDropped:    d("access_log_dropped_total", "Lines that the access log's output was too slow for, or failed for."),
		abusive:       d("abusive_connections_total", "Connections that were asked to end, or closed, for what their clients sent.", "protocol", "kind", "action"),
		bans:          d("bans", "Addresses that are banned."),
		banned:        d("bans_total", "Bans that a route has caused.", "route"),
		consumers:     d("consumers", "Consumers that stand in no file of the configuration."),
		apiKeys:       d("api_keys", "API keys that were made by command, by where they are kept.", "origin"),
		consumersAge:  d("consumers_age_seconds", "For how long consumers and keys have been the last known ones, because Consul is away."),
		untold:        d("api_key_revocations_untold", "Keys that are revoked on this node, while Consul hasn't heard of it."),
		inspected:     d("waf_requests_total", "Requests that the waf has inspected.", "route", "mode"),
		attacks:       d("waf_attacks_total", "Requests in which the waf has found an attack.", "route", "mode"),
		unseen:        d("waf_unseen_total", "Requests that passed without the waf having seen all of them: a body beyond its bound, or what mode block would have refused unread.", "route", "mode"),
		inspecting:    d("waf_inspection_seconds_total", "Time spent inspecting.", "route", "mode"),
		wafBusy:       d("waf_overloads_total", "Requests that the waf had no room to inspect."),
		auditDropped:  d("audit_log_dropped_total", "Lines that the audit log's output was too slow for, or failed for."),

		spans:          d("tracing_spans_total", "Spans of sampled requests, by what became of them: sent to the collector, dropped because it was away or too slow, rejected by it.", "outcome"),
		exportFailures: d("tracing_export_failures_total", "Requests to the collector that failed."),
		spansWaiting:   d("tracing_queue_bytes", "Spans that wait to be sent to the collector."),

		cacheAnswers:    d("cache_requests_total", "Requests to routes with a cache, by how they were answered: hit, stale (of the hits), miss, collapsed (by what another request fetched), validated (of the misses: the stored answer still held), error (stale, instead of an error), pass (nothing for the cache), refresh (without a client).", "route", "result"),
		cacheStored:     d("cache_stored_total", "Answers that were stored.", "route"),
		cacheBytes:      d("cache_bytes_total", "Bytes of bodies that were answered from memory.", "route"),
		cachePurged:     d("cache_purged_total", "Answers that purges have forgotten or made stale.", "route"),
		cacheAge:        d("cache_hit_age_seconds_total", "Ages of the answers that hits were given, summed up.", "route"),
		cacheRefused:    d("cache_not_stored_total", "Answers that weren't stored, by why.", "route", "reason"),
		purgesWait:      d("cache_purges_waiting", "Purges that other nodes haven't been told of, because Consul doesn't answer."),
		cacheEncoded:    d("cache_encodings_total", "Codings that were made of stored answers, and kept.", "route"),
		cacheMemory:     d("cache_memory_bytes", "Memory that stored answers take, about."),
		cacheItems:      d("cache_items", "Stored answers, in memory and on disk."),
		invalid:         d("validate_refused_total", "Requests refused because they weren't as the route's document has them.", "route"),
		invalidPassed:   d("validate_reported_total", "Requests that weren't as the route's document has them, and were let pass.", "route"),
		wrongResponses:  d("validate_responses_reported_total", "Responses that weren't as the route's document has them.", "route"),
		encoded:         d("compress_responses_total", "Responses compressed.", "route", "encoding"),
		encodedIn:       d("compress_bytes_before_total", "Body bytes of compressed responses, before.", "route", "encoding"),
		encodedOut:      d("compress_bytes_after_total", "Body bytes of compressed responses, after.", "route", "encoding"),
		notEncoded:      d("compress_skipped_total", "Responses that went uncompressed for want of memory.", "route"),
		encoders:        d("compress_memory_bytes", "Memory set aside for the responses that are being compressed."),
		unseenResponses: d("validate_responses_unseen_total", "Responses that were too large or compressed to be compared with the route's document.", "route"),
	}
}

// metrics are what a scrape shows: the gateway's, the process's, and what of Go's
// tells something about either.
func (a *App) metrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{app: a}, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector(
		collectors.WithGoCollectorMemStatsMetricsDisabled(),
		collectors.WithGoCollectorRuntimeMetrics(collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/memory/classes/(total|heap/objects|heap/stacks|heap/released):bytes$`)}),
	))
	return r
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
	for _, n := range a.server.Abuse() {
		action := "asked_to_end"
		if n.Closed {
			action = "closed"
		}
		count(d.abusive, float64(n.Connections), n.Protocol, n.Kind, action)
	}
	c.services(d, count, gauge)
	errors := map[[2]string]uint64{} // a dry run may have a limit's name
	for _, l := range a.counters.Counts() {
		desc := d.overRate
		if l.DryRun {
			desc = d.overRateDry
		}
		count(desc, float64(l.Refused()), l.Route, l.Limit)
		errors[[2]string{l.Route, l.Limit}] += l.Errors()
	}
	for limit, n := range errors {
		if n > 0 {
			count(d.rateErrors, float64(n), limit[0], limit[1])
		}
	}
	count(d.forgotten, float64(a.counters.Forgotten()))
	c.quotas(count, gauge)
	c.charges(count, gauge)
	c.fleet(count, gauge)
	c.usage(count, gauge)
	c.issuers(d, count, gauge)
	checks, busy := a.passwords.Checks()
	count(d.passwords, float64(checks))
	count(d.passwordsBusy, float64(busy))
	c.auth(d, count, gauge)
	for _, l := range a.logins.Counts() {
		count(d.logins, float64(l.Begun), l.Issuer, "begun")
		count(d.logins, float64(l.Done), l.Issuer, "done")
		count(d.logins, float64(l.Failed), l.Issuer, "failed")
		count(d.sessions, float64(l.Renewed), l.Issuer, "renewed")
		count(d.sessions, float64(l.NotRenewed), l.Issuer, "not_renewed")
		count(d.sessions, float64(l.Ended), l.Issuer, "ended")
	}
	gauge(d.bans, float64(len(a.bans.List(time.Now()))))
	for route, n := range a.bans.Counts() {
		count(d.banned, float64(n), route)
	}
	c.memory(d, count, gauge)
	c.waf(d, count)
	c.cache(d, count, gauge)
	for _, v := range a.described.Counts() {
		count(d.invalid, float64(v.Refused), v.Route)
		count(d.invalidPassed, float64(v.Reported), v.Route)
		count(d.wrongResponses, float64(v.Wrong), v.Route)
		count(d.unseenResponses, float64(v.Unseen), v.Route)
	}
	c.compress(d, count, gauge)
	if n, on := a.traces.Counts(); on {
		count(d.spans, float64(n.Sent), "sent")
		count(d.spans, float64(n.Dropped), "dropped")
		count(d.spans, float64(n.Rejected), "rejected")
		count(d.exportFailures, float64(n.Failures))
		gauge(d.spansWaiting, float64(n.Waiting))
	}
	if s := a.consulStatus(); s != nil {
		gauge(d.consulUp, number(s.Connected))
		gauge(d.consulAge, s.Age.Seconds())
		gauge(d.stale, float64(len(a.stale())))
	}
	c.consumers(d, gauge)
	gauge(d.problems, float64(len(a.view.problems())+len(a.keys.problems())+len(a.cacheProblems())+len(a.purges.Problems())))
	c.certificates(d, gauge)
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
	h := prometheus.MustNewConstHistogram(d.duration, t.Requests, t.Seconds, buckets, t.Route, t.Service)
	if len(t.Examples) > 0 {
		list := make([]prometheus.Exemplar, len(t.Examples))
		for i, e := range t.Examples {
			list[i] = prometheus.Exemplar{Value: e.Took.Seconds(), Labels: prometheus.Labels{"trace_id": hex.EncodeToString(e.Trace[:])}, Timestamp: e.At}
		}
		h = prometheus.MustNewMetricWithExemplars(h, list...)
	}
	ch <- h
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
		if a := s.Adaptive; a != nil {
			gauge(d.adaptive, float64(a.Limit), s.Service)
			gauge(d.adaptiveUsed, float64(a.InFlight), s.Service)
			gauge(d.atEase, a.Baseline.Seconds(), s.Service)
			for priority, n := range a.Shed {
				count(d.shed, float64(n), s.Service, priority)
			}
		}
	}
}

func (c *collector) memory(d *descs, count, gauge emit) {
	s := c.app.memory.Status()
	gauge(d.memoryUsed, float64(s.Used), s.LimitOf)
	gauge(d.memoryLimit, float64(s.Limit), s.LimitOf)
	gauge(d.memoryLevel, float64(c.app.memory.Level()))
	count(d.memoryRefused, float64(s.RefusedScarce), memory.Scarce.String())
	count(d.memoryRefused, float64(s.RefusedFull), memory.Full.String())
	count(d.memoryTurned, float64(s.TurnedAway))
}

// waf shows what has been inspected; nothing without a waf.
func (c *collector) waf(d *descs, count emit) {
	list := c.app.waf.Counts()
	for _, r := range list {
		count(d.inspected, float64(r.Requests), r.Route, r.Mode)
		count(d.attacks, float64(r.Attacks), r.Route, r.Mode)
		count(d.unseen, float64(r.Unseen), r.Route, r.Mode)
		count(d.inspecting, r.Time.Seconds(), r.Route, r.Mode)
	}
	if len(list) > 0 {
		count(d.wafBusy, float64(c.app.waf.Overloads()))
	}
	if c.app.auditLog != nil {
		count(d.auditDropped, float64(c.app.auditLog.Dropped()))
	}
}

// compress shows what has been compressed; nothing where no route is to be.
func (c *collector) compress(d *descs, count, gauge emit) {
	list, skipped := c.app.encoders.Counts()
	for _, n := range list {
		count(d.encoded, float64(n.Responses), n.Route, n.Coding)
		count(d.encodedIn, float64(n.In), n.Route, n.Coding)
		count(d.encodedOut, float64(n.Out), n.Route, n.Coding)
	}
	for route, n := range skipped {
		count(d.notEncoded, float64(n), route)
	}
	if len(skipped) > 0 {
		gauge(d.encoders, float64(c.app.encoders.Used()))
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

// auth shows the services that decide who may call; those of one URL that are
// asked in several ways, together.
func (c *collector) auth(d *descs, count, gauge emit) {
	sums := map[string]*remote.Status{}
	for _, s := range c.app.services.Status() {
		if o := sums[s.URL]; o != nil {
			o.Calls, o.Failures, o.InFlight = o.Calls+s.Calls, o.Failures+s.Failures, o.InFlight+s.InFlight
			continue
		}
		sums[s.URL] = &s
	}
	for url, s := range sums {
		count(d.authCalls, float64(s.Calls), url)
		count(d.authFailed, float64(s.Failures), url)
		gauge(d.authBusy, float64(s.InFlight), url)
	}
}

// consumers shows consumers and keys that stand in no file.
func (c *collector) consumers(d *descs, gauge emit) {
	s := c.app.keys.status()
	gauge(d.consumers, float64(s.Beside))
	gauge(d.apiKeys, float64(s.KeysInConsul), "consul")
	gauge(d.apiKeys, float64(s.KeysOnDisk), "state_dir")
	gauge(d.consumersAge, s.Age.Seconds())
	gauge(d.untold, float64(s.Untold))
}

// certificates shows when each ends. Those whose names clients choose, with on_demand or
// from the local authority, are one: the first of them to end.
func (c *collector) certificates(d *descs, gauge emit) {
	ends := map[[2]string]time.Time{}
	for _, s := range c.app.certs.Status() {
		if len(s.Names) == 0 || s.NotAfter.IsZero() {
			continue
		}
		key := [2]string{s.Names[0], s.Source}
		named := s.Source == "on-demand" || s.Source == "local"
		if named {
			key[0] = "*"
		}
		if end, ok := ends[key]; !ok || named && s.NotAfter.Before(end) {
			ends[key] = s.NotAfter
		}
	}
	for key, end := range ends {
		gauge(d.certificate, float64(end.Unix()), key[0], key[1])
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (c *collector) cache(d *descs, count, gauge emit) {
	list := c.app.cached.Counts()
	for _, v := range list {
		count(d.cacheAnswers, float64(v.Hits), v.Route, "hit")
		count(d.cacheAnswers, float64(v.Stale), v.Route, "stale")
		count(d.cacheAnswers, float64(v.Misses), v.Route, "miss")
		count(d.cacheAnswers, float64(v.Validated), v.Route, "validated")
		count(d.cacheAnswers, float64(v.Collapsed), v.Route, "collapsed")
		count(d.cacheAnswers, float64(v.Errors), v.Route, "error")
		count(d.cacheAnswers, float64(v.Passed), v.Route, "pass")
		count(d.cacheAnswers, float64(v.Refreshed), v.Route, "refresh")
		count(d.cacheStored, float64(v.Stored), v.Route)
		count(d.cacheBytes, float64(v.Bytes), v.Route)
		count(d.cachePurged, float64(v.Purged), v.Route)
		count(d.cacheAge, float64(v.Age), v.Route)
		for why, n := range v.NotStored {
			count(d.cacheRefused, float64(n), v.Route, why)
		}
		count(d.cacheEncoded, float64(v.Encoded), v.Route)
	}
	if len(list) > 0 {
		bytes, items := c.app.cached.Size()
		gauge(d.cacheMemory, float64(bytes))
		gauge(d.cacheItems, float64(items))
		gauge(d.purgesWait, float64(c.app.purges.Waiting()))
	}
	c.cacheDisk(count, gauge)
}
