package doctor

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
	"github.com/sidegate-proxy/sidegate/proxy/policy/shared"
)

func (d *doctor) agent() (*consul.Client, error) {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	return consul.New(*d.file.Consul, consul.Deps{Log: quiet})
}

// consul sees whether the agent answers, its servers have a leader, and the token
// may do what the configuration makes use of.
func (d *doctor) consul(ctx context.Context) []Finding {
	if d.file.Consul == nil {
		return nil
	}
	c, err := d.agent()
	if err != nil {
		return []Finding{fail("%v", "Correct the consul block.", err)}
	}
	defer c.Close()
	leader, _, err := c.Leader(ctx)
	if err != nil {
		return []Finding{fail("the agent on %s doesn't answer: %v", "Start it, or correct consul { address }. Until it answers, services are those last known.", c.Address(), cause(err))}
	}
	if leader == "" {
		return []Finding{fail("the agent on %s answers, but its servers have no leader", "consul operator raft list-peers, and the servers' logs, say why.", c.Address())}
	}
	found := []Finding{good("the agent on %s answers; its leader is %s", c.Address(), leader)}
	needs := app.ConsulNeeds(d.file)
	if len(needs) == 0 {
		return found
	}
	return append(found, rights(ctx, c, needs)...)
}

// rights compares those that the token has with those that are made use of.
func rights(ctx context.Context, c *consul.Client, needs []app.Need) []Finding {
	ask := make([]consul.Permission, len(needs))
	for i, n := range needs {
		ask[i] = n.Permission
	}
	lacks, off, err := c.Lacks(ctx, ask)
	switch {
	case err != nil:
		return []Finding{fail("what the token may do isn't known: %v", "Is it a token of this Consul? consul acl token read -self", cause(err))}
	case off:
		return []Finding{good("this Consul has no ACLs, so everything is allowed")}
	case len(lacks) == 0:
		return []Finding{good("the token has the %d rights that the configuration makes use of", len(needs))}
	}
	var found []Finding
	for _, n := range needs {
		for _, l := range lacks {
			if l != n.Permission {
				continue
			}
			advice := "Give the token's policy: " + n.Grant
			if n.Some {
				found = append(found, warning("the token may not %s %s %q: %s won't work", advice, n.Access, n.Resource, n.Segment, n.For))
			} else {
				found = append(found, fail("the token may not %s %s %q: needed for %s", advice, n.Access, n.Resource, n.Segment, n.For))
			}
		}
	}
	return found
}

// redis sees whether it answers, lets us in and takes what is written.
func (d *doctor) redis(ctx context.Context) []Finding {
	c := d.file.Redis
	if c == nil {
		return nil
	}
	r, err := shared.NewRedis(*c)
	if err != nil {
		return []Finding{fail("%v", "Correct the redis block.", err)}
	}
	defer r.Close()
	if err := r.Probe(ctx); err != nil {
		return []Finding{fail("Redis on %s: %v", "Limits with shared = true hold as when_down says until it answers.", c.Address, cause(err))}
	}
	begin := time.Now()
	if err := r.Probe(ctx); err != nil { // the first one also connected
		return []Finding{fail("Redis on %s: %v", "", c.Address, cause(err))}
	}
	if took := time.Since(begin); took > c.Timeout {
		return []Finding{warning("Redis on %s answers in %v, and requests wait for it no longer than %v", "Find a nearer one, or raise redis { timeout }.", c.Address, took.Round(time.Millisecond), c.Timeout)}
	}
	return []Finding{good("Redis on %s answers", c.Address)}
}

const (
	skewWarn = 5 * time.Second
	skewFail = time.Minute
)

// clock sees whether somebody keeps the clock right, and compares it with those of
// the servers that the configuration names.
func (d *doctor) clock(ctx context.Context) []Finding {
	var found []Finding
	advice := "Start one: systemctl enable --now systemd-timesyncd, or chrony."
	if ok, err := d.synced(); err == nil && !ok {
		found = append(found, warning("nothing keeps this machine's clock right, as the kernel knows", advice))
	} else if err == nil {
		found = append(found, good("the kernel's clock is kept right"))
	}
	if d.file.Consul != nil {
		if c, err := d.agent(); err == nil {
			begin := d.now()
			_, date, err := c.Leader(ctx)
			c.Close()
			if err == nil && !date.IsZero() {
				found = append(found, d.skew("Consul's agent", begin, date)...)
			}
		}
	}
	if a := app.Certificates(d.file).ACME; a != nil && len(d.ordered()) > 0 {
		if client, err := acmeClient(a); err == nil {
			begin := d.now()
			_, date, err := get(ctx, client, a.Directory)
			if err == nil && !date.IsZero() {
				found = append(found, d.skew("the ACME server", begin, date)...)
			}
		}
	}
	return found
}

// skew compares our clock with a date of a second's precision, which was written
// between begin and now.
func (d *doctor) skew(whose string, begin, date time.Time) []Finding {
	end := d.now()
	ahead := begin.Sub(date.Add(time.Second)) // at least so much
	if ahead < 0 {
		ahead = min(0, end.Sub(date)) // at most: we are behind
	}
	text := fmt.Sprintf("ahead of that of %s by %s", whose, roughly(ahead))
	if ahead < 0 {
		text = fmt.Sprintf("behind that of %s by %s", whose, roughly(-ahead))
	}
	advice := "Certificates, tokens and limits go by the clock: set it, and have it kept right."
	switch size := ahead.Abs(); {
	case size > skewFail:
		return []Finding{fail("this machine's clock is %s", advice, text)}
	case size > skewWarn:
		return []Finding{warning("this machine's clock is %s", advice, text)}
	default:
		return []Finding{good("the clock agrees with that of %s", whose)}
	}
}

// synchronised asks the kernel.
func synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, err
	}
	const timeError, unsynchronised = 5, 0x40 // adjtimex(2): TIME_ERROR, STA_UNSYNC
	return state != timeError && t.Status&unsynchronised == 0, nil
}
