// Package doctor looks for what would keep a gateway from doing its work on this
// machine: ports, rights, names, Consul, clocks, limits. It asks the world, which
// validation doesn't, and changes nothing in it. Only what the configuration uses
// is looked at, each check within a time of its own, and nothing that is secret
// gets into what it says.
//
// Checks run at the same time, each in a goroutine that ends with its time; one
// that hangs in the kernel (a dead network file system) is left behind.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/config"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // it works, but not as it should, or perhaps not later
	Fail Level = "fail"
)

// Finding is one thing that was looked at.
type Finding struct {
	Check  string `json:"check"`
	Level  Level  `json:"level"`
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"` // what to do
}

// Options say what to look at.
type Options struct {
	app.Options
	User    string        // whom the gateway runs as; "": who asks
	Unit    bool          // systemd runs it, by its unit
	Timeout time.Duration // of each check
	// Running is the gateway that runs with this configuration; nil: none.
	Running *admin.Status
}

// doctor is one examination.
type doctor struct {
	Options
	file *config.File
	who  account
	unit unitFacts

	// The world, as tests give it.
	root    string // of /proc and /sys
	now     func() time.Time
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	ours    func() ([]netip.Addr, error) // addresses of this machine
	synced  func() (bool, error)         // the kernel's clock is kept right by somebody
	http01  string                       // port that ACME's HTTP-01 comes to
}

// check is one of them. What needs no look finds nothing.
type check struct {
	name string
	look func(context.Context) []Finding
}

// Examine runs all checks, and gives what they found in the order of the checks.
func Examine(ctx context.Context, opt Options) []Finding {
	d := &doctor{
		Options: opt, root: "/", now: time.Now, synced: synchronised, ours: interfaces, http01: "80",
		resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
	}
	return d.examine(ctx)
}

func (d *doctor) examine(ctx context.Context) []Finding {
	file, found := d.configuration()
	if file == nil {
		return found
	}
	d.file = file
	var err error
	if d.who, err = findAccount(d.User); err != nil {
		return append(found, Finding{"user", Fail, err.Error(), "Name the user that the gateway runs as with -user."})
	}
	d.unit = d.systemd(ctx)
	// Ports come first: the acme check listens on one.
	found = append(found, d.run(ctx, []check{{"systemd", d.service}, {"ports", d.ports}})...)
	return append(found, d.run(ctx, []check{
		{"files", d.files},
		{"disk", d.disk},
		{"certificates", d.certificates},
		{"dns", d.dns},
		{"acme", d.acme},
		{"consul", d.consul},
		{"sidecars", d.sidecars},
		{"redis", d.redis},
		{"instances", d.instances},
		{"clock", d.clock},
		{"descriptors", d.descriptors},
		{"quic", d.quic},
		{"memory", d.memory},
		{"kernel", d.kernel},
	})...)
}

// run runs checks side by side.
func (d *doctor) run(ctx context.Context, checks []check) []Finding {
	results := make([]chan []Finding, len(checks))
	for i, c := range checks {
		results[i] = make(chan []Finding, 1) // so that a late one ends
		go func() {
			ctx, cancel := context.WithTimeout(ctx, d.Timeout)
			defer cancel()
			results[i] <- c.look(ctx)
		}()
	}
	// What heeds its time ends within it; the rest gets a little more.
	late := time.NewTimer(d.Timeout + time.Second)
	defer late.Stop()
	var all []Finding
	over := false
	for i, c := range checks {
		var found []Finding
		if over {
			select {
			case found = <-results[i]:
			default:
				found = tooLate(d.Timeout)
			}
		} else {
			select {
			case found = <-results[i]:
			case <-late.C:
				over = true
				found = tooLate(d.Timeout)
			}
		}
		for _, f := range found {
			f.Check = c.name
			f.Text, f.Advice = oneLine(f.Text), oneLine(f.Advice)
			all = append(all, f)
		}
	}
	return all
}

func tooLate(d time.Duration) []Finding {
	return []Finding{fail("this check wasn't done after %v", "Something on this machine hangs: a disk, a network file system.", d)}
}

// configuration checks what validate checks. Without a file nothing else can be.
func (d *doctor) configuration() (*config.File, []Finding) {
	var said strings.Builder
	opt := d.Options.Options
	opt.Stderr = &said
	file, err := app.Load(opt)
	if _, missing := os.Stat(opt.Config); errors.Is(missing, fs.ErrNotExist) {
		return nil, []Finding{{"configuration", Fail, "there is no " + opt.Config, "sidegate init writes a first one; -config says where it is."}}
	}
	if err != nil {
		return nil, configErrors(err)
	}
	said.Reset() // Validate says it again
	summary, err := app.Validate(opt)
	var found []Finding
	if err != nil {
		found = configErrors(err)
	} else {
		found = append(found, Finding{"configuration", OK, summary, ""})
	}
	found = append(found, diagnosed(said.String())...)
	if r := d.Running; r != nil && r.Config.RejectedBy != "" {
		found = append(found, Finding{"configuration", Fail, fmt.Sprintf("the running gateway, pid %d, hasn't taken over the newest files: %s", r.PID, firstLine(r.Config.RejectedBy)), "Mend the files; it looks at them again by itself."})
	}
	return file, found
}

// configErrors makes findings of what is wrong with the files.
func configErrors(err error) []Finding {
	var diags *app.ConfigError
	if !errors.As(err, &diags) {
		return []Finding{{"configuration", Fail, oneLine(err.Error()), "Run sidegate validate."}}
	}
	found := diagnosed(diags.Text)
	if found == nil {
		found = []Finding{{"configuration", Fail, firstLine(diags.Text), "Run sidegate validate."}}
	}
	return found
}

// diagnosed takes apart what validate prints: the place and what is wrong in a
// line, the source below it, and then, indented, what to do.
func diagnosed(text string) []Finding {
	var found []Finding
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if rest, indented := strings.CutPrefix(line, "  "); indented {
			if len(found) > 0 && !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "see also ") {
				f := &found[len(found)-1]
				f.Advice = oneLine(f.Advice + " " + rest)
			}
			continue
		}
		for word, level := range map[string]Level{"error: ": Fail, "warning: ": Warn} {
			if place, text, ok := strings.Cut(line, word); ok && !strings.Contains(place, "error: ") && !strings.Contains(place, "warning: ") {
				found = append(found, Finding{"configuration", level, oneLine(place + text), ""})
				break
			}
		}
	}
	return found
}

func good(format string, args ...any) Finding {
	return Finding{Level: OK, Text: fmt.Sprintf(format, args...)}
}

// warning is a Finding with advice; the arguments are the text's.
func warning(format, advice string, args ...any) Finding {
	return Finding{Level: Warn, Text: fmt.Sprintf(format, args...), Advice: advice}
}

func fail(format, advice string, args ...any) Finding {
	return Finding{Level: Fail, Text: fmt.Sprintf(format, args...), Advice: advice}
}

// oneLine keeps line breaks and control characters, which names and errors of
// others may have, away from a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r >= 0x7f && r < 0xa0:
			return '?'
		default:
			return r
		}
	}, strings.TrimSpace(s))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// text reads a small file of the kernel's.
func (d *doctor) text(path string) (string, error) {
	b, err := os.ReadFile(d.root + path)
	return strings.TrimSpace(string(b)), err
}
