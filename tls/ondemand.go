package tls

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"
)

const (
	askTimeout   = 2 * time.Second
	verdictLife  = time.Minute
	maxVerdicts  = 10000
	asksPerSec   = 20
	failureStart = time.Minute
	failureMax   = time.Hour
	ordersAnHour = 20 // for the names below one registered domain
)

// asker asks a URL whether a name may get a certificate. Handshakes wait for
// it, and strangers choose the names: so answers are kept for a minute, asking
// is limited, and a name that failed at the authority has to wait.
type asker struct {
	url    *url.URL
	now    func() time.Time
	client *http.Client

	mu       sync.Mutex // guards what follows
	verdicts map[string]verdict
	failures map[string]failure
	granted  map[string]struct{}
	orders   map[string]int // by registered domain, since hour
	hour     time.Time
	tokens   float64
	filled   time.Time
}

type verdict struct {
	err   error
	until time.Time
}

type failure struct {
	wait  time.Duration
	until time.Time
}

// newAsker needs a URL that the plan has checked.
func newAsker(ask string, now func() time.Time) *asker {
	u, err := url.Parse(ask)
	if err != nil {
		panic(err)
	}
	return &asker{
		url: u, now: now, tokens: asksPerSec, filled: now(),
		verdicts: make(map[string]verdict), failures: make(map[string]failure), granted: make(map[string]struct{}),
		orders: make(map[string]int), hour: now(),
		client: &http.Client{
			Timeout: askTimeout,
			Transport: &http.Transport{
				DialContext:     (&net.Dialer{Timeout: askTimeout}).DialContext,
				MaxConnsPerHost: 16, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
				MaxResponseHeaderBytes: 16 << 10,
			},
			// A redirect is not a yes, wherever it ends.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

var errAskLimit = errors.New("asked too often; try again in a second")

// ready reports what is known without asking: a refusal, or a name that waits
// after a failure.
func (a *asker) ready(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if f, ok := a.failures[name]; ok && now.Before(f.until) {
		return fmt.Errorf("getting a certificate for %q failed; next try at %s", name, f.until.Format(time.TimeOnly))
	}
	if v, ok := a.verdicts[name]; ok && now.Before(v.until) {
		return v.err
	}
	return nil
}

// allow gives the reason why a name gets no certificate; nil allows it.
func (a *asker) allow(ctx context.Context, name string) error {
	a.mu.Lock()
	now := a.now()
	if v, ok := a.verdicts[name]; ok && now.Before(v.until) {
		a.mu.Unlock()
		return v.err
	}
	if _, ok := a.granted[name]; !ok && len(a.granted) >= maxVerdicts {
		a.mu.Unlock()
		return fmt.Errorf("%d names have a certificate on demand, the most there may be", maxVerdicts)
	}
	a.tokens = min(asksPerSec, a.tokens+now.Sub(a.filled).Seconds()*asksPerSec)
	a.filled = now
	if a.tokens < 1 {
		a.mu.Unlock()
		return errAskLimit
	}
	a.tokens--
	a.mu.Unlock()

	err := a.ask(ctx, name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.verdicts) >= maxVerdicts {
		clear(a.verdicts)
	}
	a.verdicts[name] = verdict{err, a.now().Add(verdictLife)}
	return err
}

func (a *asker) ask(ctx context.Context, name string) error {
	u := *a.url
	q := u.Query()
	q.Set("domain", name)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "sidegate")
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("asking for %q: %w", name, err)
	}
	// The rest of a short answer, so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%q isn't allowed: %s answered %d", name, a.url.Redacted(), resp.StatusCode)
	}
	return nil
}

// failed makes a name wait, twice as long at each failure up to an hour.
func (a *asker) failed(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.failures[name]
	f.wait = min(max(2*f.wait, failureStart), failureMax)
	f.until = a.now().Add(f.wait)
	if len(a.failures) >= maxVerdicts {
		clear(a.failures)
	}
	a.failures[name] = f
}

// order counts an order, and refuses it when the names below one registered
// domain had their share: one customer's DNS mustn't use up what the authority
// allows us.
func (a *asker) order(name string) error {
	domain, err := publicsuffix.EffectiveTLDPlusOne(name)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := a.now(); now.Sub(a.hour) >= time.Hour || len(a.orders) >= maxVerdicts {
		a.hour = now
		clear(a.orders)
	}
	if a.orders[domain] >= ordersAnHour {
		return fmt.Errorf("%d certificates were ordered for names below %s within an hour", ordersAnHour, domain)
	}
	a.orders[domain]++
	return nil
}

// grant notes that a name has a certificate.
func (a *asker) grant(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.granted[name] = struct{}{}
	delete(a.failures, name)
}

// names lists those that have a certificate.
func (a *asker) names() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.granted))
}
