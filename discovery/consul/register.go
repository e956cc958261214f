package consul

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Registration is a service on the agent, with one check by TCP.
type Registration struct {
	ID, Name string
	Address  string // "": the agent's
	Port     int
	Tags     []string
	Meta     map[string]string
	CheckTCP string        // host:port; "": no check
	Interval time.Duration // of the check; 10 s unless given
}

// Register puts a service on the agent, or replaces it.
func (c *Client) Register(ctx context.Context, r Registration) error {
	type tcpCheck struct {
		Name, TCP, Interval, Timeout   string
		Status                         string
		DeregisterCriticalServiceAfter string
	}
	body := struct {
		ID, Name, Address string
		Port              int
		Tags              []string
		Meta              map[string]string
		Check             *tcpCheck `json:",omitempty"`
	}{ID: r.ID, Name: r.Name, Address: r.Address, Port: r.Port, Tags: r.Tags, Meta: r.Meta}
	if r.CheckTCP != "" {
		every := r.Interval
		if every <= 0 {
			every = 10 * time.Second
		}
		// Passing from the start: who registers has just begun to listen. A
		// demo that was killed goes away by itself.
		body.Check = &tcpCheck{Name: "tcp " + r.CheckTCP, TCP: r.CheckTCP, Interval: every.String(),
			Timeout: "2s", Status: "passing", DeregisterCriticalServiceAfter: "1m"}
	}
	if _, err := c.write(ctx, http.MethodPut, "agent/service/register", nil, body); err != nil {
		return fmt.Errorf("consul: register %s: %w", r.Name, err)
	}
	return nil
}

// Deregister takes a service off the agent; that it isn't there is no error.
func (c *Client) Deregister(ctx context.Context, id string) error {
	_, err := c.write(ctx, http.MethodPut, "agent/service/deregister/"+url.PathEscape(id), nil, nil)
	if s, ok := err.(*statusError); ok && s.code == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return fmt.Errorf("consul: deregister %s: %w", id, err)
	}
	return nil
}
