package upstream

import (
	"github.com/sirupsen/logrus"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/proxy/balance"
)

// view is what requests see of a pool: the instances that may be picked. It is
// immutable, and replaced when one of them changes.
type view struct {
	settings *settings
	local    side // eligible instances on this host, when they are preferred
	all      side // all eligible instances
	byName   map[string]*instance
	healthy  int
	total    int
	panic    bool
}

// side is a set of instances and their picker.
type side struct {
	list   []*instance
	picker balance.Picker
}

func newSide(a balance.Algorithm, list []*instance) side {
	set := make([]balance.Endpoint, len(list))
	for i, in := range list {
		set[i] = balance.Endpoint{Stats: &in.stats, Weight: max(in.info.Weight, 1), Key: in.key}
	}
	return side{list: list, picker: a.Build(set)}
}

func (s *side) pick(key uint64, now int64, tried []*balance.Stats) *instance {
	if len(s.list) == 0 {
		return nil
	}
	if i := s.picker.Pick(key, now, tried); i >= 0 {
		return s.list[i]
	}
	return nil
}

// pick returns an instance with room that isn't in tried, or nil.
func (v *view) pick(key uint64, now int64, tried []*balance.Stats) *instance {
	if in := v.local.pick(key, now, tried); in != nil {
		return in
	}
	return v.all.pick(key, now, tried)
}

// rebuild makes the view that instances and settings now say. p.mu is held.
func (p *Pool) rebuild(now int64) {
	s := p.settings.Load()
	checked := s.cfg.HealthCheck != nil
	v := &view{settings: s}
	usable := make([]*instance, 0, len(p.order))
	for _, in := range p.order {
		ok, _ := in.eligible(checked)
		if in.info.Health != discovery.Maintenance {
			v.total++
		}
		if ok {
			v.healthy++
			usable = append(usable, in)
		}
		p.turned(in, ok, now, s)
	}
	if v.total > 0 && float64(v.healthy) < s.cfg.Panic*float64(v.total) {
		v.panic = true
		usable = usable[:0]
		for _, in := range p.order {
			if in.info.Health != discovery.Maintenance {
				usable = append(usable, in)
			}
		}
	}
	v.all = newSide(s.algorithm, usable)
	if s.cfg.PreferLocal && !v.panic {
		var local []*instance
		for _, in := range usable {
			if in.info.Local {
				local = append(local, in)
			}
		}
		if len(local) < len(usable) {
			v.local = newSide(s.algorithm, local)
		}
	}
	if s.cfg.Sticky != nil {
		v.byName = make(map[string]*instance, len(usable))
		for _, in := range usable {
			v.byName[in.name] = in
		}
	}
	if was := p.view.Swap(v); was != nil && was.panic != v.panic {
		p.saidPanic(v)
	}
	if s.adaptive != nil {
		s.adaptive.limit.Resize(len(usable), s.limit)
	}
	p.rebuilt = true
}

// turned notes whether an instance is healthy. One that comes back starts anew:
// slowly, and with what was known of its latency forgotten.
func (p *Pool) turned(in *instance, healthy bool, now int64, s *settings) {
	fresh := !in.known
	if healthy && !in.healthy && (!fresh || p.settled) {
		in.stats.Forget()
		if s.cfg.SlowStart > 0 {
			in.stats.Ramp(now, s.cfg.SlowStart)
		}
	}
	in.healthy, in.known = healthy, true
}

func (p *Pool) saidPanic(v *view) {
	fields := logrus.Fields{"healthy": v.healthy, "instances": v.total}
	if v.panic {
		p.note(logrus.WarnLevel, fields, "too few healthy instances: health is ignored")
	} else {
		p.note(logrus.InfoLevel, fields, "enough healthy instances again")
	}
}
