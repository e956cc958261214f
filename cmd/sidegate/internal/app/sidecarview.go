package app

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
	"github.com/sidegate-proxy/sidegate/discovery/sidecar"
	"github.com/sidegate-proxy/sidegate/proxy"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

// glance bounds a look at the app for status.
const glance = 200 * time.Millisecond

// sidecarsStatus is how the sidecars are, and those that are leaving.
func (a *App) sidecarsStatus() []admin.SidecarStatus {
	registered := map[string]sidecar.Status{}
	if r := a.registered.registrar.Load(); r != nil {
		for _, s := range r.Status() {
			registered[s.ID] = s
		}
	}
	var out []admin.SidecarStatus
	for _, s := range a.current().Sidecars {
		service := a.registration(s)
		r := registered[service.ID]
		delete(registered, service.ID)
		st := admin.SidecarStatus{
			Name: s.Name, ID: service.ID, State: cmp.Or(r.State, sidecar.Pending), Since: r.Since, Health: r.Health, Maintenance: r.Maintenance, Error: r.Error,
			Announced: net.JoinHostPort(service.Address, strconv.Itoa(service.Port)), App: s.App, Identity: service.Meta[upstream.IdentityMeta], Proxy: s.Proxy, Upstreams: a.calling(s),
		}
		if at := a.server.Address(s.Inbound(), s.Listen); at != nil {
			st.Listen = at.String()
		}
		ctx, cancel := context.WithTimeout(context.Background(), glance)
		if err := reaches(s.App).connect(ctx); err != nil {
			st.AppError = err.Error()
		}
		cancel()
		out = append(out, st)
	}
	for _, id := range slices.Sorted(maps.Keys(registered)) {
		r := registered[id]
		if r.State == sidecar.Left {
			continue
		}
		out = append(out, admin.SidecarStatus{
			Name: r.Name, ID: id, State: r.State, Since: r.Since, Health: r.Health, Maintenance: r.Maintenance, Error: r.Error,
			Announced: net.JoinHostPort(r.Address, strconv.Itoa(r.Port)),
		})
	}
	return out
}

// calling are the services that a sidecar's app calls, with those that it has called
// by name.
func (a *App) calling(s *config.Sidecar) []admin.SidecarCalling {
	var out []admin.SidecarCalling
	for _, u := range s.Upstreams {
		out = append(out, admin.SidecarCalling{Service: u.Name, Listen: u.Listen})
	}
	if s.Proxy != "" {
		for _, w := range a.named.services(a.current()) {
			out = append(out, admin.SidecarCalling{Service: w.service.Name})
		}
	}
	return out
}

// unregistered says which services aren't as they should be in Consul; "": none.
func (a *App) unregistered() string {
	r := a.registered.registrar.Load()
	if r == nil {
		return ""
	}
	var parts []string
	for _, s := range r.Status() {
		switch {
		case s.Error != "":
			parts = append(parts, fmt.Sprintf("%s isn't registered as it should be", s.Name))
		case s.State == sidecar.Waiting:
			parts = append(parts, s.Name+" waits for its app")
		case s.State == sidecar.Pending:
			parts = append(parts, s.Name+" isn't registered yet")
		}
	}
	return strings.Join(parts, ", ")
}

// listenerOf is the listener that a question is about. One of a sidecar is guessed
// from the host where there are only sidecars.
func listenerOf(t *proxy.Table, q admin.Question, host string) (string, error) {
	listeners := slices.Sorted(maps.Keys(t.Own))
	if q.Listener != "" || len(listeners) == 0 {
		if _, ok := t.Own[q.Listener]; q.Listener != "" && !ok {
			advice := config.DidYouMean(q.Listener, listeners)
			if advice == "" && len(listeners) > 0 {
				advice = "There are " + strings.Join(listeners, ", ") + "."
			}
			return "", fmt.Errorf("the listener %q has no routes of its own, so leave it out. %s", q.Listener, advice)
		}
		return q.Listener, nil
	}
	if len(t.Matcher.List()) > 0 {
		return "", nil
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	if _, named := parseName(strings.ToLower(name)); named {
		for _, l := range listeners {
			if strings.HasSuffix(l, "/proxy") {
				return l, nil
			}
		}
	}
	return listeners[0], nil
}
