package consul

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Bounds of answers.
const (
	maxAnswer     = 64 << 20 // health/state/any of 20,000 checks is about 10 MB
	maxErrorText  = 512
	maxSmallReply = 1 << 20
)

// read is one question to the agent.
type read struct {
	path       string // below /v1/
	params     url.Values
	dc         string
	index      uint64        // 0: answer at once
	hash       string        // what the agent's own services have instead of an index; "": answer at once
	wait       time.Duration // how long the agent may wait for a change; 0: times.wait
	consistent bool          // else stale
	limit      int64         // of the body; 0: maxAnswer
}

// blocks says that the agent may take its time to answer.
func (r *read) blocks() bool { return r.index > 0 || r.hash != "" }

// answer is what the agent said.
type answer struct {
	body     []byte
	index    uint64
	missing  bool // 404, which KV says when there are no keys
	filtered bool // the ACLs hid something
	deny     bool // the default policy is deny
}

// statusError is an answer that isn't one.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("agent answered %d", e.code)
	}
	return fmt.Sprintf("agent answered %d: %s", e.code, e.text)
}

// refusal says that the error is about the question, not the agent's state. The
// agent says 500, too, for a filter it doesn't understand and for a datacenter
// that it doesn't know.
func (e *statusError) refusal() bool {
	if e.code == http.StatusInternalServerError {
		return strings.Contains(e.text, "boolean expression") || strings.Contains(e.text, "No path to datacenter")
	}
	return e.code < 500 && e.code != http.StatusTooManyRequests
}

// get asks the agent. A blocking read may take its wait time, the agent's own
// jitter of a sixteenth, and times.answer; from the first byte of the answer on
// it has times.answer, so that a dripping body ends too.
func (c *Client) get(ctx context.Context, r read) (answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bound := c.times.answer
	if r.blocks() {
		wait := cmp.Or(r.wait, c.times.wait)
		bound += wait + wait/16
	}
	late := time.AfterFunc(bound, func() { cancel(errSlow) })
	defer late.Stop()

	resp, err := c.send(ctx, http.MethodGet, r.path, c.query(r), nil)
	if err != nil {
		return answer{}, c.failed(ctx, r.dc, err)
	}
	defer resp.Body.Close()
	late.Reset(c.times.answer)
	a, err := c.receive(resp, r.limit)
	if err != nil {
		return answer{}, c.failed(ctx, r.dc, err)
	}
	c.succeeded()
	return a, nil
}

var errSlow = errors.New("agent took too long to answer")

func (c *Client) query(r read) url.Values {
	q := make(url.Values, len(r.params)+4)
	for k, v := range r.params {
		q[k] = v
	}
	if r.consistent {
		q.Set("consistent", "")
	} else {
		q.Set("stale", "")
	}
	if r.dc != "" {
		q.Set("dc", r.dc)
	}
	switch {
	case r.index > 0:
		q.Set("index", strconv.FormatUint(r.index, 10))
	case r.hash != "":
		q.Set("hash", r.hash)
	}
	if r.blocks() {
		q.Set("wait", strconv.FormatInt(cmp.Or(r.wait, c.times.wait).Milliseconds(), 10)+"ms")
	}
	return q
}

// send makes one request; ctx bounds it.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	if c.conf.Namespace != "" {
		q.Set("ns", c.conf.Namespace)
	}
	if c.conf.Partition != "" {
		q.Set("partition", c.conf.Partition)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/v1/"+path+"?"+q.Encode(), content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "sidegate")
	if c.conf.Token != "" {
		req.Header.Set("X-Consul-Token", c.conf.Token)
	}
	if a := c.conf.HttpAuth; a != nil {
		req.SetBasicAuth(a.Username, a.Password)
	}
	return c.http.Do(req)
}

// receive reads the answer whole.
func (c *Client) receive(resp *http.Response, limit int64) (answer, error) {
	if limit == 0 {
		limit = maxAnswer
	}
	if resp.ProtoMajor < 2 {
		c.gate.shrink(maxBlockingPlain)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotFound {
		text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
		if err != nil {
			text = nil // the status says enough
		}
		if resp.StatusCode == http.StatusTooManyRequests {
			c.gate.refused()
		}
		return answer{}, &statusError{resp.StatusCode, oneLine(text)}
	}
	var buf bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= 1<<20 {
		buf.Grow(int(n) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return answer{}, err
	}
	if n > limit {
		return answer{}, complain("answer is larger than %d bytes", limit)
	}
	a := answer{body: buf.Bytes(), missing: resp.StatusCode == http.StatusNotFound}
	a.filtered = resp.Header.Get("X-Consul-Results-Filtered-By-Acls") == "true"
	a.deny = resp.Header.Get("X-Consul-Default-Acl-Policy") == "deny"
	if v := resp.Header.Get("X-Consul-Index"); v != "" {
		if a.index, err = strconv.ParseUint(v, 10, 64); err != nil {
			a.index = 0 // negative or rubbish: begin anew
		}
	}
	return a, nil
}

// oneLine makes a short printable text of what the agent sent.
func oneLine(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(string(b), "?")))
}

// failed notes what a failure says about the agent, and gives the error without
// the URL, which the caller names better.
func (c *Client) failed(ctx context.Context, dc string, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSlow) {
		err = errSlow
	} else if cause != nil {
		return cause // our own end says nothing about the agent
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if dc != "" && dc != c.dc {
		return err // another datacenter's trouble isn't the agent's
	}
	var s *statusError
	if errors.As(err, &s) && s.refusal() {
		return err // it answered
	}
	c.lastKO.Store(time.Now().UnixNano())
	if c.down.CompareAndSwap(false, true) {
		c.log.WithError(err).WithField("agent", c.conf.Address).Warn("Consul doesn't answer; what was last known stays")
	}
	return err
}

// succeeded notes an answer; the first one after a failure wakes the watches
// that are pausing.
func (c *Client) succeeded() {
	c.lastOK.Store(time.Now().UnixNano())
	if !c.down.CompareAndSwap(true, false) {
		return
	}
	c.log.WithField("agent", c.conf.Address).Info("Consul answers again")
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.recovery)
	c.recovery = make(chan struct{})
}

// impersonal says that an error is the agent's trouble, which failed has logged
// once for all watches.
func impersonal(err error) bool {
	var s *statusError
	if errors.As(err, &s) {
		return !s.refusal()
	}
	var o *ourError
	return !errors.As(err, &o)
}

// ourError is one that our reading of an answer found.
type ourError struct{ text string }

func (e *ourError) Error() string { return e.text }

func complain(format string, args ...any) error {
	return &ourError{fmt.Sprintf(format, args...)}
}

// write makes a short request that changes something, or asks with a body.
func (c *Client) write(ctx context.Context, method, path string, q url.Values, body any) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.times.answer, errSlow)
	defer cancel()
	if q == nil {
		q = make(url.Values, 3)
	}
	resp, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return nil, c.failed(ctx, "", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSmallReply))
	if err != nil {
		return nil, c.failed(ctx, "", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &statusError{resp.StatusCode, oneLine(data[:min(len(data), maxErrorText)])}
	}
	c.succeeded()
	return data, nil
}
