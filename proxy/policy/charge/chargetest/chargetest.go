// Package chargetest is a billing service for tests, as the protocol of charges has
// it (openapi.yaml, one folder up): it remembers what it was told, on a disk if it
// has one, takes each message once, and notes what no gateway may do. It can be made
// to lose answers, to get requests twice, and to be slow. It is for tests only.
package chargetest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Message is what a gateway says.
type Message struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Meter    string `json:"meter"`
	Units    string `json:"units"`
	Consumer string `json:"consumer"`
	Route    string `json:"route"`
	Request  string `json:"request_id"`
	Time     string `json:"time"`
	Node     string `json:"node"`
	Expires  string `json:"expires"`
	Granted  string `json:"granted"`
	Usage    []struct{ Day, Units string }
	Messages []Message `json:"messages"`
}

// Fault is what befalls a request.
type Fault struct {
	Lose   bool          // the answer, after the request was dealt with
	Twice  bool          // it comes a second time
	Delay  time.Duration // before it is dealt with
	Status int           // the answer, without dealing with it; 0: none
}

// Billing is the service. Its exported fields are set before it serves.
type Billing struct {
	// Fault says what befalls a request; nil: nothing.
	Fault func(r *http.Request) Fault
	// Refuse says why a question is refused; "": it isn't.
	Refuse func(m *Message) string
	// Reject says why a message of a batch is; "": it isn't.
	Reject func(m *Message) string
	// Grant is what it says of a lease ("granted", "expires"); nil: nothing, which is all.
	Grant func(m *Message) map[string]any
	// Seen is called with each body that comes; nil: nobody.
	Seen func(r *http.Request, body []byte)

	mu      sync.Mutex
	disk    *os.File
	charges map[string]*charge
	wrong   []string
	asked   int
}

// charge is one, or a lease.
type charge struct {
	Message
	State string // reserved, charged, void, leased, returned
}

// New returns a service that remembers in a file; "": in memory alone.
func New(path string) (*Billing, error) {
	b := &Billing{charges: map[string]*charge{}}
	if path == "" {
		return b, nil
	}
	var err error
	if b.disk, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(b.disk)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var c charge
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, err
		}
		b.charges[c.ID] = &c
	}
	return b, lines.Err()
}

// Close lets go of the file.
func (b *Billing) Close() error {
	if b.disk == nil {
		return nil
	}
	return b.disk.Close()
}

var _ http.Handler = (*Billing)(nil)

// ServeHTTP takes charges.
func (b *Billing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	if err != nil {
		return // its sender is gone
	}
	if b.Seen != nil {
		b.Seen(r, body)
	}
	var f Fault
	if b.Fault != nil {
		f = b.Fault(r)
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
		}
	}
	if f.Status != 0 {
		w.WriteHeader(f.Status)
		return
	}
	status, answer := b.take(r, body)
	if f.Twice {
		again, _ := b.take(r, body)
		if again != status {
			b.note("%s: %d at first, %d when it came again", body, status, again)
		}
	}
	if f.Lose {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // its reader's loss
}

func (b *Billing) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, fmt.Sprintf(format, args...))
}

// Wrong is what gateways did that they may not.
func (b *Billing) Wrong() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.wrong)
}

// Asked is how many questions for reservations and leases came, repeated ones
// included.
func (b *Billing) Asked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

type answer map[string]any

func (b *Billing) take(r *http.Request, body []byte) (int, answer) {
	if r.Method == http.MethodGet {
		return b.totals(r)
	}
	var m Message
	if err := json.Unmarshal(body, &m); err != nil {
		b.note("%s: %v", body, err)
		return 400, answer{"reason": err.Error()}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.Kind == "batch" {
		return b.batch(&m)
	}
	b.asked++
	if key := r.Header.Get("Idempotency-Key"); key != m.ID || m.ID == "" {
		b.wrong = append(b.wrong, fmt.Sprintf("%s: the Idempotency-Key is %q", body, key))
	}
	if c := b.charges[m.ID]; c != nil {
		if c.State == "void" {
			return 409, answer{"reason": "it was cancelled before"}
		}
		return 200, b.granted(&m)
	}
	if b.Refuse != nil {
		if why := b.Refuse(&m); why != "" {
			return 402, answer{"reason": why}
		}
	}
	b.put(&m, map[string]string{"reserve": "reserved", "lease": "leased"}[m.Kind])
	return 200, b.granted(&m)
}

func (b *Billing) granted(m *Message) answer {
	if m.Kind != "lease" || b.Grant == nil {
		return answer{}
	}
	return b.Grant(m)
}

// put remembers; b.mu is held.
func (b *Billing) put(m *Message, state string) {
	c := &charge{*m, state}
	b.charges[m.ID] = c
	if b.disk == nil {
		return
	}
	line, err := json.Marshal(c)
	if err == nil {
		_, err = b.disk.Write(append(line, '\n'))
	}
	if err != nil {
		b.wrong = append(b.wrong, err.Error())
	}
}

func (b *Billing) batch(m *Message) (int, answer) {
	var rejected []answer
	for i := range m.Messages {
		one := &m.Messages[i]
		if b.Reject != nil {
			if why := b.Reject(one); why != "" {
				rejected = append(rejected, answer{"id": one.ID, "reason": why})
				continue
			}
		}
		b.tell(one)
	}
	return 200, answer{"rejected": rejected}
}

// tell takes a message of a batch, once.
func (b *Billing) tell(m *Message) {
	c := b.charges[m.ID]
	bad := func(why string) { b.wrong = append(b.wrong, fmt.Sprintf("%s %s: %s", m.Kind, m.ID, why)) }
	switch m.Kind {
	case "settle", "event":
		switch {
		case c != nil && c.State == "charged":
			if c.Units != m.Units {
				bad("again, with " + m.Units + " instead of " + c.Units)
			}
		case c != nil && c.State == "void":
			bad("it was cancelled before")
		default:
			b.put(m, "charged")
		}
	case "cancel":
		if c != nil && c.State == "charged" {
			bad("it was charged before")
			return
		}
		b.put(m, "void")
	case "return":
		if c == nil || c.State != "returned" {
			b.put(m, "returned")
		}
	default:
		bad("what is that?")
	}
}

// totals answers what was charged by day.
func (b *Billing) totals(r *http.Request) (int, answer) {
	q := r.URL.Query()
	sums := map[[3]string]int64{}
	b.each(func(day, consumer, meter, node string, units int64) {
		if day >= q.Get("since") && (q.Get("until") == "" || day < q.Get("until")) && (q.Get("node") == "" || q.Get("node") == node) {
			sums[[3]string{day, consumer, meter}] += units
		}
	})
	list := []answer{}
	for k, v := range sums {
		list = append(list, answer{"day": k[0], "consumer": k[1], "meter": k[2], "units": decimal(v)})
	}
	return 200, answer{"totals": list}
}

// each goes over what was charged.
func (b *Billing) each(f func(day, consumer, meter, node string, units int64)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.charges {
		switch c.State {
		case "charged":
			f(c.Time[:10], c.Consumer, c.Meter, c.Node, millionths(c.Units))
		case "returned":
			for _, u := range c.Usage {
				f(u.Day, c.Consumer, c.Meter, c.Node, millionths(u.Units))
			}
		}
	}
}

// Units is what a consumer was charged of a meter; "": all.
func (b *Billing) Units(consumer, meter string) string {
	var sum int64
	b.each(func(_, c, m, _ string, units int64) {
		if (consumer == "" || c == consumer) && (meter == "" || m == meter) {
			sum += units
		}
	})
	return decimal(sum)
}

// Count is how many charges are in a state: reserved, charged, void, leased,
// returned.
func (b *Billing) Count(state string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.charges {
		if c.State == state {
			n++
		}
	}
	return n
}

// Requests counts the charges of each request, by its id; mode lease has none.
func (b *Billing) Requests() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := map[string]int{}
	for _, c := range b.charges {
		if c.State == "charged" {
			n[c.Request]++
		}
	}
	return n
}

// Charged reports how a charge is, "" if it isn't known.
func (b *Billing) Charged(id string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.charges[id]; c != nil {
		return c.State
	}
	return ""
}

func millionths(text string) int64 {
	whole, part, _ := strings.Cut(text, ".")
	n, _ := strconv.ParseInt(whole, 10, 64)
	m, _ := strconv.ParseInt((part + "000000")[:6], 10, 64)
	return n*1_000_000 + m
}

func decimal(n int64) string {
	text := fmt.Sprintf("%d.%06d", n/1_000_000, n%1_000_000)
	return strings.TrimRight(strings.TrimRight(text, "0"), ".")
}
