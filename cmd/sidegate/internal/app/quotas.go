package app

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
)

// Quotas returns what clients have used of their quotas; client "": all.
func (a *App) Quotas(client string) []quota.Use { return a.quotas.List(client) }

// SetQuota says how much a client has used.
func (a *App) SetQuota(scope, client, period string, used int64) (quota.Use, error) {
	if err := a.mayChange(); err != nil {
		return quota.Use{}, err
	}
	u, err := a.quotas.Set(scope, client, period, used)
	if err == nil {
		a.log.WithFields(logrus.Fields{"quota": scope, "client": client, "period": period, "used": used}).Info("use of a quota set by an operator")
	}
	return u, err
}

// quotas shows the counters of quotas.
func (c *collector) quotas(count, gauge emit) {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("sidegate_quota_"+name, help, labels, nil)
	}
	refused := d("refused_total", "Requests that a quota refused.", "route", "quota")
	warnings := d("warnings_total", "Clients that had used 80 % of a quota, each once in a period.", "route", "quota")
	failed := d("errors_total", "Expressions of quotas that had no value.", "route", "quota")
	s := c.app.quotas
	list := s.Counts()
	if len(list) == 0 {
		return
	}
	for _, l := range list {
		count(refused, float64(l.Refused()), l.Route, l.Quota)
		count(warnings, float64(l.Warned()), l.Route, l.Quota)
		if n := l.Errors(); n > 0 {
			count(failed, float64(n), l.Route, l.Quota)
		}
	}
	gauge(d("clients", "Clients whose use of quotas is counted."), float64(s.Clients()))
	count(d("together_total", "Requests counted together with those of other clients: counters.quota_clients is too small."), float64(s.Together()))
	gauge(d("disk_failing", "1 while what is used of quotas can't be written to the disk."), number(s.Failing()))
}
