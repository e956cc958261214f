package forward

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/proxy/exchange"
	"github.com/sidegate-proxy/sidegate/proxy/policy/auth"
	"github.com/sidegate-proxy/sidegate/proxy/policy/header"
	"github.com/sidegate-proxy/sidegate/proxy/policy/remote"
)

type verdict uint8

const (
	admitted verdict = iota
	unauthenticated
	forbidden
	redirected
)

// answer is what the service said, as far as it counts. It never changes.
type answer struct {
	verdict    verdict
	status     int
	fields     []copied
	consumer   string
	challenges []string
	location   string
	cookies    []string
	lasts      time.Duration // at most; 0: it isn't to be used again
	size       int64
}

type copied struct {
	id          exchange.ID
	name, value string
	first       bool // of its name
}

// The bounds of what is taken out of an answer.
const (
	maxFields   = 64
	maxLocation = 8 << 10
)

// read takes what counts out of an answer. An unexpected one is an error: it says
// nothing about the request.
func (m *Method) read(got *remote.Answer) (*answer, error) {
	a := &answer{status: got.Status, cookies: valid(got.Header["Set-Cookie"]), lasts: time.Hour, size: 256}
	switch s := got.Status; {
	case s >= 200 && s <= 299:
		if err := m.readFields(a, got.Header); err != nil {
			return nil, err
		}
	case s == 401:
		a.verdict, a.challenges = unauthenticated, valid(got.Header["Www-Authenticate"])
	case s == 403:
		a.verdict = forbidden
	case s == 301 || s == 302 || s == 303 || s == 307 || s == 308:
		a.verdict, a.location = redirected, got.Header.Get("Location")
		if !location(a.location) {
			return nil, fmt.Errorf("the auth service answers %d without a Location that leads somewhere", s)
		}
	default:
		return nil, fmt.Errorf("the auth service answers %d, which says nothing about the request", s)
	}
	for _, list := range [][]string{a.challenges, a.cookies} {
		for _, v := range list {
			a.size += int64(len(v)) + 16
		}
	}
	a.lasts = freshness(got.Header.Values("Cache-Control"))
	if a.verdict == redirected || len(a.cookies) > 0 {
		a.lasts = 0 // made for one client
	}
	return a, nil
}

// readFields takes the copied fields, each of the service's values.
func (m *Method) readFields(a *answer, h http.Header) error {
	if m.consumer != "" {
		a.consumer = h.Get(m.consumer)
	}
	for _, f := range m.copy {
		for i, v := range h[f.name] {
			if !header.Value(v) || len(a.fields) >= maxFields {
				return fmt.Errorf("the auth service's %s can't be copied", f.name)
			}
			a.fields = append(a.fields, copied{f.id, f.name, v, i == 0})
			a.size += int64(len(v)) + 64
		}
	}
	return nil
}

// valid are the values that can be passed on.
func valid(list []string) (out []string) {
	for _, v := range list {
		if header.Value(v) && len(out) < maxFields {
			out = append(out, v)
		}
	}
	return out
}

func location(text string) bool {
	u, err := url.Parse(text)
	return err == nil && text != "" && len(text) <= maxLocation && header.Value(text) && (u.Scheme == "" || u.Scheme == "https" || u.Scheme == "http")
}

// freshness is how long an answer may be used again, as its Cache-Control says
// (RFC 9111, 5.2.2); 0: not at all.
func freshness(fields []string) time.Duration {
	lasts := time.Hour
	for _, f := range fields {
		exchange.EachToken(f, func(t string) bool {
			name, value, _ := strings.Cut(t, "=")
			switch strings.ToLower(name) {
			case "no-store", "no-cache":
				lasts = 0
			case "max-age":
				if n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
					lasts = min(lasts, time.Duration(n)*time.Second)
				}
			}
			return true
		})
	}
	return lasts
}

// redirect answers x as the service did.
func (a *answer) redirect(x *exchange.Exchange) error {
	x.Reply(a.status, "", nil)
	x.Response.Append("Location", a.location)
	x.Response.Append("Cache-Control", "no-store")
	return nil
}

// Cache remembers answers, those that admit apart from those that refuse: who
// makes up credentials pushes out nobody. It serves all routes and outlives
// reloads.
type Cache struct {
	key       remote.Sum
	good, bad *remote.Memory[*answer]
	flights   remote.Flights[*answer]
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	return &Cache{key: remote.NewKey(), good: remote.NewMemory[*answer](16384, 32<<20), bad: remote.NewMemory[*answer](4096, 8<<20)}
}

func (c *Cache) find(s *remote.Sum, now time.Time) *answer {
	if a, ok := c.good.Get(s, now); ok {
		return a
	}
	a, _ := c.bad.Get(s, now)
	return a
}

func (c *Cache) add(s *remote.Sum, a *answer, now time.Time, keep time.Duration) {
	until := now.Add(min(keep, a.lasts))
	switch {
	case a.lasts == 0:
	case a.verdict == admitted:
		c.good.Put(s, a, a.size, now, until)
		c.bad.Forget(s)
	default:
		c.bad.Put(s, a, a.size, now, until)
		c.good.Forget(s)
	}
}

// sum is the question of x: the fields that are sent, and what key says. Each
// part has its length in front, so that no two questions are written alike.
func (m *Method) sum(x *exchange.Exchange) remote.Sum {
	var buf [2048]byte
	b := append(append(buf[:0], m.cache.key[:]...), m.seed[:]...)
	for n, f := range m.send {
		if f.id != exchange.Other && !x.Request.Has(f.id) {
			continue
		}
		for i := range x.Request.Len() {
			if name, value := x.Request.Field(i); m.is(x, i, name, f) {
				b = appendPart(append(b, byte(n)), value)
			}
		}
	}
	b = append(b, 0xff)
	for bit := range uint8(6) {
		if m.key&(1<<bit) == 0 {
			continue
		}
		switch bit {
		case 0:
			b = appendPart(b, x.Method)
		case 1:
			b = appendPart(b, auth.Scheme(x))
		case 2:
			b = appendPart(b, x.Target.Authority)
		case 3:
			b = appendPart(b, x.Target.Path)
		case 4:
			if x.Target.HasQuery {
				b = appendPart(append(b, '?'), x.Target.Query)
			}
		case 5:
			b = x.ClientIP.Unmap().AppendTo(b) // the last one
		}
	}
	return sha256.Sum256(b)
}

func appendPart(b []byte, part string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(part))), part...)
}
