package consul

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sidegate-proxy/sidegate/discovery"
	"github.com/sidegate-proxy/sidegate/discovery/discoverytest"
)

// thrifty is a client of a process among many.
func thrifty(t *testing.T, address string) *Client {
	return newClient(t, address, "", func(c *Client) {
		c.thrifty = 2
		if err := c.connect(); err != nil {
			t.Fatal(err)
		}
	})
}

// shared counts the watches of services, and those that share.
func shared(c *Client) (all, sharing int) {
	for _, s := range c.Status() {
		if strings.HasPrefix(s.What, "service ") {
			all++
		}
		if s.Shared {
			sharing++
		}
	}
	return all, sharing
}

// Two watches block; a third makes all of them share, until none is left.
func TestThrifty(t *testing.T) {
	a := newAgent(t, false, "")
	c := thrifty(t, a.address())
	for i := range 4 {
		register(t, a, "", fmt.Sprintf(`{"ID":"s%d","Name":%q,"Port":80}`, i, serviceName(i)))
	}
	var all []*discoverytest.Recorder
	watch := func(i int) {
		r := discoverytest.Watch(t, c, discovery.Query{Service: serviceName(i)})
		r.Await(t, "the instance", func(s []discovery.Instance) bool { return len(s) == 1 })
		all = append(all, r)
	}
	watch(0)
	watch(1)
	if n, sharing := shared(c); n != 2 || sharing != 0 {
		t.Errorf("%d of 2 watches share, want none", sharing)
	}
	watch(2)
	watch(3)
	eventually(t, "all share", func() bool { n, sharing := shared(c); return n == 4 && sharing == 4 })
	for i, r := range all {
		register(t, a, "", fmt.Sprintf(`{"ID":"m%d","Name":%q,"Port":81,"Check":{"TTL":"1h","Status":"passing"}}`, i, serviceName(i)))
		r.Await(t, "a change", func(s []discovery.Instance) bool { return len(s) == 2 })
	}
	// A node's check counts, and its end does.
	for _, on := range []bool{true, false} {
		a.put(t, "PUT", fmt.Sprintf("agent/maintenance?enable=%t", on), "", "")
		for _, r := range all {
			r.Await(t, "maintenance of the node", func(s []discovery.Instance) bool { return (s[0].Health == discovery.Maintenance) == on })
		}
	}
	for _, r := range all {
		r.Stop(t)
	}
	all = nil
	r := discoverytest.Watch(t, c, discovery.Query{Service: serviceName(0)})
	r.Await(t, "the instances", func(s []discovery.Instance) bool { return len(s) == 2 })
	if _, sharing := shared(c); sharing != 0 {
		t.Error("a single watch shares, after others have ended")
	}
}
