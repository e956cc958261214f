package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// The bounds of a service.
const (
	concurrency = 256  // requests at a time
	maxWaiting  = 4096 // requests that wait for a place
	idleTimeout = time.Minute
)

// ErrBusy is a service that has too many requests of ours to answer.
var ErrBusy = errors.New("too many requests wait for its answer")

// Settings say how a service is asked. Equal ones share a Service.
type Settings struct {
	URL     string        // who it is, for people; requests name their own address
	CAs     string        // roots in PEM for its server; "": the system's
	Timeout time.Duration // of one request, waiting for a place included
	MaxBody int64         // bytes of an answer; more is an error
	Outside bool          // it may be behind the proxy that the environment names
}

// Service is one that is asked. It may be used by any number of goroutines.
type Service struct {
	settings  Settings
	client    *http.Client
	transport *http.Transport
	log       logrus.FieldLogger
	places    chan struct{}
	waiting   atomic.Int64

	calls, failures atomic.Uint64
	failing         atomic.Bool  // what is under mu is an error
	failedAt        atomic.Int64 // seconds since 1970; 0: never

	mu  sync.Mutex // guards err
	err error      // of the last request
}

func newService(set Settings, log logrus.FieldLogger) *Service {
	t := Transport(set.CAs, set.Outside)
	t.MaxIdleConnsPerHost, t.IdleConnTimeout = 64, idleTimeout
	t.DialContext = (&net.Dialer{Timeout: set.Timeout}).DialContext
	return &Service{
		settings: set, transport: t, client: &http.Client{Transport: t, CheckRedirect: NoRedirects},
		log: log.WithField("url", Shown(set.URL)), places: make(chan struct{}, concurrency),
	}
}

// Answer is what a service said.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do asks. The answer has come as a whole, within the bounds. The strings of r
// must not be views of an exchange: they may be read after Do has returned.
func (s *Service) Do(r *http.Request) (*Answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.settings.Timeout)
	defer cancel()
	if !s.enter(ctx) {
		s.failures.Add(1)
		return nil, ErrBusy
	}
	defer func() { <-s.places }()
	s.calls.Add(1)
	a, err := s.do(r.WithContext(ctx))
	if err != nil {
		s.failures.Add(1)
		s.failedAt.Store(time.Now().Unix())
	}
	s.tell(err)
	return a, err
}

func (s *Service) do(r *http.Request) (*Answer, error) {
	resp, err := s.client.Do(r)
	if err != nil {
		return nil, reason(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, s.settings.MaxBody+1))
	if err != nil {
		return nil, reason(err)
	}
	if int64(len(body)) > s.settings.MaxBody {
		return nil, fmt.Errorf("the answer has more than %d bytes", s.settings.MaxBody)
	}
	if resp.StatusCode >= 500 {
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// reason is err without the URL, which may have a secret in it.
func reason(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("it didn't answer in time")
	}
	return err
}

// enter takes a place, and waits for one, for a time.
func (s *Service) enter(ctx context.Context) bool {
	select {
	case s.places <- struct{}{}:
		return true
	default:
	}
	if s.waiting.Add(1) > maxWaiting {
		s.waiting.Add(-1)
		return false
	}
	defer s.waiting.Add(-1)
	select {
	case s.places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// tell logs what changed.
func (s *Service) tell(err error) {
	if (err != nil) == s.failing.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.err
	s.err = err
	s.failing.Store(err != nil)
	switch {
	case err != nil && before == nil:
		s.log.WithError(err).Warn("a service that requests depend on can't be asked")
	case err == nil && before != nil:
		s.log.Info("the service that requests depend on answers again")
	}
}
