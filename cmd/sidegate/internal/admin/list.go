package admin

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// listing is how a list is to be answered: a part of it, of those that q is in.
type listing struct {
	q             string // in lower case
	sort          string
	descending    bool
	offset, limit int // limit 0: all
}

// listingOf reads q, sort, order, offset and limit. usual is the limit where none
// is given; 0: all.
func listingOf(r *http.Request, usual int) (listing, error) {
	q := r.URL.Query()
	l := listing{q: strings.ToLower(q.Get("q")), sort: q.Get("sort"), descending: q.Get("order") == "desc", limit: usual}
	if q.Has("limit") {
		n, err := limitOf(r)
		if err != nil {
			return l, err
		}
		l.limit = n
	}
	if text := q.Get("offset"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return l, Refuse(http.StatusBadRequest, "offset: %.20q isn't a number from 0 on", text)
		}
		l.offset = n
	}
	return l, nil
}

// has reports whether one of the texts has q in it.
func (l *listing) has(texts ...string) bool {
	return l.q == "" || slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(strings.ToLower(s), l.q) })
}

// orders are comparisons by name.
type orders[T any] map[string]func(a, b *T) int

// part is what of a list is asked for, sorted as asked for; without sort it stays
// as it is. How many there are goes into the field X-Total-Count.
func part[T any](w http.ResponseWriter, l *listing, list []T, by orders[T]) ([]T, error) {
	if l.sort != "" {
		compare := by[l.sort]
		if compare == nil {
			return nil, Refuse(http.StatusBadRequest, "sort: %.20q isn't one of %s", l.sort, strings.Join(sortedKeys(by), ", "))
		}
		slices.SortStableFunc(list, func(a, b T) int {
			if l.descending {
				return compare(&b, &a)
			}
			return compare(&a, &b)
		})
	}
	w.Header().Set("X-Total-Count", strconv.Itoa(len(list)))
	list = list[min(l.offset, len(list)):]
	if l.limit > 0 {
		list = list[:min(l.limit, len(list))]
	}
	return list, nil
}

func sortedKeys[T any](m orders[T]) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// listed makes a handler of a list: those of all() that want says belong to it.
func listed[T any](s *Server, usual int, all func(*http.Request) []T, want func(*listing, *http.Request, *T) bool, by orders[T]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.answer(func(r *http.Request) (any, error) {
			l, err := listingOf(r, usual)
			if err != nil {
				return nil, err
			}
			list := []T{} // never null
			for _, v := range all(r) {
				if want(&l, r, &v) {
					list = append(list, v)
				}
			}
			return part(w, &l, list, by)
		})(w, r)
	}
}

// lists adds the lists. Those that the command line reads as a whole stay whole
// unless a limit is given.
func (s *Server) lists(m *http.ServeMux) {
	g := s.Gateway
	m.HandleFunc("GET /api/routes", listed(s, 0, func(*http.Request) []RouteStatus { return g.Routes() }, func(l *listing, r *http.Request, v *RouteStatus) bool {
		q := r.URL.Query()
		return (!q.Has("name") || q.Get("name") == v.Name) && l.has(v.Name, v.Host, v.Path, v.To, v.Origin)
	}, nil))
	m.HandleFunc("GET /api/services", listed(s, pageUsual, func(*http.Request) []ServiceRow { return g.Services() }, wantService, serviceOrders()))
	m.HandleFunc("GET /api/certificates", listed(s, pageUsual, func(*http.Request) []edgetls.CertStatus { return g.Certificates() }, func(l *listing, _ *http.Request, v *edgetls.CertStatus) bool {
		return l.has(append([]string{v.Source, v.Issuer, v.Error}, v.Names...)...)
	}, orders[edgetls.CertStatus]{
		"name":   func(a, b *edgetls.CertStatus) int { return slices.Compare(a.Names, b.Names) },
		"ends":   func(a, b *edgetls.CertStatus) int { return a.NotAfter.Compare(b.NotAfter) },
		"source": func(a, b *edgetls.CertStatus) int { return strings.Compare(a.Source, b.Source) },
	}))
	m.HandleFunc("GET /api/bans", listed(s, 0, func(*http.Request) []ban.Ban { return g.Bans() }, func(l *listing, _ *http.Request, v *ban.Ban) bool {
		return l.has(v.Client, v.By)
	}, orders[ban.Ban]{
		"client": func(a, b *ban.Ban) int { return strings.Compare(a.Client, b.Client) },
		"since":  func(a, b *ban.Ban) int { return a.Since.Compare(b.Since) },
		"until":  func(a, b *ban.Ban) int { return a.Until.Compare(b.Until) },
		"times":  func(a, b *ban.Ban) int { return cmp.Compare(a.Times, b.Times) },
	}))
	m.HandleFunc("GET /api/quotas", listed(s, 0, func(r *http.Request) []quota.Use { return g.Quotas(r.URL.Query().Get("client")) }, func(l *listing, _ *http.Request, v *quota.Use) bool {
		return l.has(v.Quota, v.Client)
	}, orders[quota.Use]{
		"client": func(a, b *quota.Use) int { return strings.Compare(a.Client, b.Client) },
		"quota":  func(a, b *quota.Use) int { return strings.Compare(a.Quota, b.Quota) },
		"used":   func(a, b *quota.Use) int { return cmp.Compare(a.Used, b.Used) },
		"left":   func(a, b *quota.Use) int { return cmp.Compare(a.Left, b.Left) },
	}))
}
