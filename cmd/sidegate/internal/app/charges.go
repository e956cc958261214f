package app

import (
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// What bounds an answer of a billing service: one that a request waits for, and others,
// which come one at a time.
const (
	billingWaited = 64 << 10
	billingMost   = 8 << 20
)

// isURL reports whether a billing service is named by its URL.
func isURL(service string) bool { return strings.Contains(service, "://") }

// chargedAt are the services that the charges of a route are told to.
func chargedAt(r *proxy.Route) []string {
	var list []string
	for _, n := range r.Chain.Policies() {
		if p, ok := n.Policy.(*charge.Policy); ok {
			for _, s := range p.Services() {
				if !isURL(s) {
					list = append(list, s)
				}
			}
		}
	}
	return list
}

// billingServices are those that are named by a URL: services like all others, of
// one host.
func billingServices(p *charge.Plan) []*upstream.Config {
	var list []*upstream.Config
	seen := map[string]bool{}
	for _, s := range p.Services() {
		u, err := url.Parse(s)
		if !isURL(s) || err != nil || seen[s] {
			continue
		}
		seen[s] = true
		c := config.NewService(s)
		port := u.Port()
		if u.Scheme == "https" {
			c.Protocol = "https"
		}
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		host := u.Hostname()
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		c.Instances = []string{host + ":" + port}
		list = append(list, c)
	}
	return list
}

// connectBilling lets the charges of a configuration call their services.
func connectBilling(p *charge.Plan, pools *upstream.Plan) {
	p.Connect(func(service string) charge.Caller {
		pool := pools.Pool(service)
		if pool == nil {
			return nil
		}
		return func(c *charge.Call) (*charge.Answer, error) {
			call := proxy.Call{Method: c.Method, Path: c.Path, Query: c.Query, Host: c.Host, Body: c.Body, Until: c.Until, MaxBody: billingMost}
			call.Header = append(call.Header, proxy.Field{Name: "User-Agent", Value: "sidegate"}, proxy.Field{Name: "Accept", Value: "application/json"})
			if len(c.Body) > 0 {
				call.Header = append(call.Header, proxy.Field{Name: "Content-Type", Value: "application/json"})
			}
			if c.Key != "" {
				call.MaxBody = billingWaited
				call.Header = append(call.Header, proxy.Field{Name: "Idempotency-Key", Value: c.Key})
			}
			if c.Token != "" {
				call.Header = append(call.Header, proxy.Field{Name: "Authorization", Value: "Bearer " + c.Token.Reveal()})
			}
			a, err := call.Send(pool, service)
			if err != nil {
				return nil, err
			}
			return &charge.Answer{Status: a.Status, Body: a.Body}, nil
		}
	})
}

// Charges lists charges.
func (a *App) Charges(q charge.Query) charge.Page { return a.charges.List(q) }

// Charge returns one charge.
func (a *App) Charge(id string) (charge.Entry, error) { return a.charges.Find(id) }

// ChargeTotals are what was charged by day.
func (a *App) ChargeTotals(since, until, consumer string) (charge.Totals, error) {
	return a.charges.Totals(since, until, consumer)
}

// ChargeStatus says how the ledger does.
func (a *App) ChargeStatus() charge.Status { return a.charges.Status() }

// RetryCharges has dead letters told again; id "": all.
func (a *App) RetryCharges(id string) (int, error) {
	if err := a.mayChange(); err != nil {
		return 0, err
	}
	n, err := a.charges.Retry(id)
	if err == nil {
		a.log.WithField("charges", n).Info("dead letters of charges are told again, by an operator")
	}
	return n, err
}

// ReconcileCharges compares with the billing services.
func (a *App) ReconcileCharges(since, until, service string) (charge.Comparison, error) {
	return a.charges.Reconcile(since, until, service)
}

// chargesStatus is the ledger at a glance; nil: nothing is charged.
func (a *App) chargesStatus() *admin.ChargesStatus {
	if !a.charges.Used() {
		return nil
	}
	s := a.charges.Status()
	out := &admin.ChargesStatus{Pending: s.Pending, Dead: s.Dead, Failing: s.Spool.Error}
	for _, t := range s.Services {
		if t.Down || !t.Configured && t.Pending > 0 {
			out.Down = append(out.Down, t.Service)
		}
	}
	return out
}

// charges shows the counters of charges.
func (c *collector) charges(count, gauge emit) {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sidegate_"+name, help, labels, nil)
	}
	if !c.app.charges.Used() {
		return
	}
	requests := d("charges_total", "Requests to routes that charge, by what became of that: charged, uncharged (the answer costs nothing), repeated (its Idempotency-Key has paid), refused (402), denied (503), given (by when_down allow; never charged), owed (by when_down owe; charged, too), error (the price couldn't be told).", "route", "meter", "outcome")
	units := d("charged_units_total", "Units, by the same.", "route", "meter", "outcome")
	s := c.app.charges.Status()
	for _, o := range s.Counts {
		count(requests, float64(o.Requests), o.Route, o.Meter, o.Outcome)
		count(units, float64(o.Units)/1e6, o.Route, o.Meter, o.Outcome)
	}
	pending := d("charges_pending", "Charges, cancellations and leases that a billing service is still to be told of.", "service")
	leases := d("charge_leases", "Leases that are spent from.", "service")
	down := d("charge_service_down", "1 while a billing service doesn't answer.", "service")
	calls := d("charge_service_requests_total", "Requests to a billing service.", "service")
	failures := d("charge_service_failures_total", "Those of them without a usable answer.", "service")
	spent := d("charge_service_seconds_total", "Time spent waiting for a billing service.", "service")
	for _, t := range s.Services {
		gauge(pending, float64(t.Pending), t.Service)
		gauge(leases, float64(t.Leases), t.Service)
		gauge(down, number(t.Down), t.Service)
		count(calls, float64(t.Requests), t.Service)
		count(failures, float64(t.Failures), t.Service)
		count(spent, t.Spent.Seconds(), t.Service)
	}
	age := 0.0
	if !s.Oldest.IsZero() {
		age = time.Since(s.Oldest).Seconds()
	}
	gauge(d("charges_pending_age_seconds", "Age of the oldest of what billing services are still to be told."), age)
	gauge(d("charges_dead", "Dead letters: charges that a billing service didn't take. See sidegate charges list --state dead."), float64(s.Dead))
	gauge(d("charges_spool_bytes", "Bytes of charges on the disk."), float64(s.Spool.Bytes))
	gauge(d("charges_disk_failing", "1 while charges can't be written to the disk."), number(s.Spool.Failing))
}
