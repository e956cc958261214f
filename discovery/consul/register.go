package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Registration is a service on the agent, with at most one check of its own.
type Registration struct {
	ID, Name string
	Address  string // "": the agent's
	Port     int
	Tags     []string
	Meta     map[string]string
	// Weights in Consul's balancing; both 0 is 1 and 1.
	Passing, Warning int
	CheckHTTP        string        // URL that the agent asks; "": see CheckTCP
	CheckTCP         string        // host:port; "": no check
	Interval         time.Duration // of the check; 10 s unless given
	Timeout          time.Duration // of the check; 2 s unless given
	Status           string        // the check's at first: passing, warning or critical, which is Consul's default
	DeregisterAfter  time.Duration // of being critical; the agent looks every 30 s. 0: never
}

// checkID is what the agent would call the check itself.
func checkID(service string) string { return "service:" + service }

// serviceCheck is a check as the agent reads it.
type serviceCheck struct {
	CheckID, Name, Notes           string
	HTTP                           string `json:",omitempty"`
	TCP                            string `json:",omitempty"`
	Interval, Timeout              string
	Status                         string `json:",omitempty"`
	DeregisterCriticalServiceAfter string `json:",omitempty"`
}

func (r *Registration) check() *serviceCheck {
	if r.CheckHTTP == "" && r.CheckTCP == "" {
		return nil
	}
	c := &serviceCheck{
		CheckID: checkID(r.ID), HTTP: r.CheckHTTP, TCP: r.CheckTCP, Notes: r.notes(), Status: r.Status,
		Interval: r.interval().String(), Timeout: r.timeout().String(),
	}
	c.Name = "http " + r.CheckHTTP
	if r.CheckHTTP == "" {
		c.Name = "tcp " + r.CheckTCP
	}
	if r.DeregisterAfter > 0 {
		c.DeregisterCriticalServiceAfter = r.DeregisterAfter.String()
	}
	return c
}

func (r *Registration) interval() time.Duration { return cmp.Or(max(r.Interval, 0), 10*time.Second) }
func (r *Registration) timeout() time.Duration  { return cmp.Or(max(r.Timeout, 0), 2*time.Second) }

// notes says in words what the check is. The agent tells a check's notes but not
// what it asks, so this is how Registered.Differs knows.
func (r *Registration) notes() string {
	text := fmt.Sprintf("every %s, within %s", r.interval(), r.timeout())
	if r.DeregisterAfter > 0 {
		text += fmt.Sprintf(", deregistered after %s", r.DeregisterAfter)
	}
	return text
}

// weights are those that the agent will say.
func (r *Registration) weights() weights {
	if r.Passing <= 0 && r.Warning <= 0 {
		return weights{1, 1}
	}
	return weights{max(r.Passing, 1), max(r.Warning, 0)}
}

type weights struct{ Passing, Warning int }

// Register puts a service on the agent, or replaces it; a maintenance mode that
// it is in stays.
func (c *Client) Register(ctx context.Context, r Registration) error {
	body := struct {
		ID, Name, Address string
		Port              int
		Tags              []string
		Meta              map[string]string
		Weights           weights
		Check             *serviceCheck `json:",omitempty"`
	}{r.ID, r.Name, r.Address, r.Port, r.Tags, r.Meta, r.weights(), r.check()}
	if _, err := c.write(ctx, http.MethodPut, "agent/service/register", nil, body); err != nil {
		return fmt.Errorf("consul: register %s: %w", r.Name, mayWrite(err, r.Name))
	}
	return nil
}

// Deregister takes a service off the agent; that it isn't there is no error.
func (c *Client) Deregister(ctx context.Context, id string) error {
	_, err := c.write(ctx, http.MethodPut, "agent/service/deregister/"+url.PathEscape(id), nil, nil)
	if err != nil && !unknown(err) {
		return fmt.Errorf("consul: deregister %s: %w", id, mayWrite(err, ""))
	}
	return nil
}

// Maintain puts a service of the agent into maintenance mode, or takes it out;
// that there is no such service is no error.
func (c *Client) Maintain(ctx context.Context, id string, on bool, reason string) error {
	q := url.Values{"enable": {strconv.FormatBool(on)}}
	if on {
		q.Set("reason", reason)
	}
	_, err := c.write(ctx, http.MethodPut, "agent/service/maintenance/"+url.PathEscape(id), q, nil)
	if err != nil && !unknown(err) {
		return fmt.Errorf("consul: maintenance of %s: %w", id, mayWrite(err, ""))
	}
	return nil
}

// unknown says that the agent has no such service.
func unknown(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == http.StatusNotFound
}

// mayWrite adds to a refusal by ACLs the rule that is missing.
func mayWrite(err error, name string) error {
	var s *statusError
	if !errors.As(err, &s) || s.code != http.StatusForbidden {
		return err
	}
	if name == "" {
		return fmt.Errorf(`the token lacks policy = "write" for the service: %w`, err)
	}
	return fmt.Errorf(`the token lacks the rule service %q { policy = "write" }: %w`, name, err)
}

// Registered is a service as the agent has it.
type Registered struct {
	ID, Name, Address string
	Port              int
	Tags              []string
	Meta              map[string]string
	Hash              string // of all above, for AwaitService
	Status            string // of its own check; "": it has none
	Maintenance       string // why it is in maintenance; "": it isn't
	weights           weights
	notes             string
	checkName         string
}

// maintenancePrefix begins the id of a check that Maintain makes.
const maintenancePrefix = "_service_maintenance:"

// Registered asks the agent for one of its own services; ok is false when it has
// none of that id. service, its name, is for what errors say.
func (c *Client) Registered(ctx context.Context, service, id string) (r Registered, ok bool, err error) {
	fail := func(err error) (Registered, bool, error) {
		return Registered{}, false, fmt.Errorf("consul: look up %s: %w", id, mayWrite(err, service))
	}
	a, err := c.shortGet(ctx, read{path: "agent/service/" + url.PathEscape(id), limit: maxSmallReply})
	if err != nil {
		return fail(err)
	}
	if a.missing {
		return Registered{}, false, nil
	}
	var body struct {
		Service, Address, ContentHash string
		Port                          int
		Tags                          []string
		Meta                          map[string]string
		Weights                       weights
	}
	if err := json.Unmarshal(a.body, &body); err != nil {
		return fail(complain("answer can't be read: %v", err))
	}
	params := url.Values{"filter": {"ServiceID == " + strconv.Quote(id)}}
	if a, err = c.shortGet(ctx, read{path: "agent/checks", params: params, limit: maxSmallReply}); err != nil {
		return fail(err)
	}
	var checks map[string]struct{ Name, Status, Notes string }
	if err := json.Unmarshal(a.body, &checks); err != nil {
		return fail(complain("answer can't be read: %v", err))
	}
	own := checks[checkID(id)]
	r = Registered{
		ID: id, Name: body.Service, Address: body.Address, Port: body.Port, Tags: body.Tags, Meta: body.Meta,
		Hash: body.ContentHash, weights: body.Weights, Status: own.Status, notes: own.Notes, checkName: own.Name,
	}
	if m, on := checks[maintenancePrefix+id]; on {
		r.Maintenance = cmp.Or(m.Notes, "no reason given")
	}
	return r, true, nil
}

// Differs says in what the agent has a service otherwise than r would register
// it; "" when it doesn't.
func (h *Registered) Differs(r Registration) string {
	check := cmp.Or(r.check(), new(serviceCheck))
	switch {
	case h.Name != r.Name:
		return "name"
	case h.Address != r.Address || h.Port != r.Port:
		return "address"
	case !slices.Equal(h.Tags, r.Tags):
		return "tags"
	case !maps.Equal(h.Meta, r.Meta):
		return "meta"
	case h.weights != r.weights():
		return "weights"
	case h.checkName != check.Name || h.notes != check.Notes:
		return "check"
	}
	return ""
}

// awaitService is how long AwaitService blocks: not for long, since a watch may
// begin meanwhile, and checks aren't part of the hash.
const awaitService = time.Minute

// AwaitService returns when what the agent has of id may have changed since it
// had that hash. While nothing else is watched through this client, so that the
// process has just one waiting connection, that is a blocking query; else it
// looks no sooner than in about `every`, or when the agent answers again after
// it didn't.
func (c *Client) AwaitService(ctx context.Context, id, hash string, every time.Duration) error {
	c.mu.Lock()
	watching, recovery := len(c.watches) > 0, c.recovery
	c.mu.Unlock()
	if !watching && hash != "" {
		_, err := c.get(ctx, read{path: "agent/service/" + url.PathEscape(id), hash: hash, wait: awaitService, limit: maxSmallReply})
		return err
	}
	t := time.NewTimer(every/2 + rand.N(every))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-recovery:
	case <-t.C:
	}
	return nil
}

// InMaintenance asks the catalog, which is where others look, whether a service
// of this agent's node has got there with its maintenance mode.
func (c *Client) InMaintenance(ctx context.Context, service, id string) (bool, error) {
	params := url.Values{"filter": {"CheckID == " + strconv.Quote(maintenancePrefix+id)}}
	a, err := c.shortGet(ctx, read{path: "health/checks/" + url.PathEscape(service), params: params, limit: maxSmallReply})
	if err != nil {
		return false, err
	}
	if a.filtered {
		return false, complain("the token may not read this: the answer was filtered by ACLs")
	}
	return !emptyList(a.body), nil
}

// Denied says that the agent's ACLs refused what err is about.
func Denied(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.code == http.StatusForbidden
}
