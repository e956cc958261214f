package doctor

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/proxy/memory"
)

// unitFacts are what systemd says of the gateway's unit.
type unitFacts struct {
	booted    bool // systemd runs this machine
	installed bool
	active    string
	enabled   string
	reload    bool  // its files have changed since systemd read them
	files     int64 // LimitNOFILE; 0: not known
}

// systemd asks for them, if the unit is to run the gateway.
func (d *doctor) systemd(ctx context.Context) unitFacts {
	var u unitFacts
	if !d.Unit {
		return u
	}
	for _, dir := range []string{"etc/systemd/system/", "usr/lib/systemd/system/", "lib/systemd/system/"} {
		if _, err := os.Stat(d.root + dir + "sidegate.service"); err == nil {
			u.installed = true
		}
	}
	if _, err := os.Stat(d.root + "run/systemd/system"); err != nil { // sd_booted(3)
		return u
	}
	u.booted = true
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "-p", "ActiveState,UnitFileState,NeedDaemonReload,LimitNOFILE", "sidegate.service").Output()
	if err != nil {
		return u
	}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "ActiveState":
			u.active = value
		case "UnitFileState":
			u.enabled = value
		case "NeedDaemonReload":
			u.reload = value == "yes"
		case "LimitNOFILE":
			u.files, _ = strconv.ParseInt(value, 10, 64) // "infinity": 0, not known
		}
	}
	return u
}

func (d *doctor) service(context.Context) []Finding {
	u := d.unit
	switch {
	case !d.Unit:
		return nil
	case !u.installed:
		return []Finding{warning("sidegate.service isn't installed", "The packages bring it; without it nothing starts the gateway at boot.")}
	case !u.booted:
		return []Finding{good("sidegate.service is installed; systemd doesn't run here")}
	}
	found := []Finding{good("sidegate.service is %s and %s", u.active, u.enabled)}
	if u.active == "failed" {
		found = []Finding{fail("sidegate.service has failed", "journalctl -u sidegate says why; then systemctl reset-failed sidegate, and start it.")}
	}
	if u.enabled == "disabled" {
		found = append(found, warning("sidegate.service isn't enabled, so the gateway isn't started at boot", "systemctl enable sidegate"))
	}
	if u.reload {
		found = append(found, warning("sidegate.service has changed since systemd read it", "systemctl daemon-reload"))
	}
	return found
}

// descriptors compares how many files the gateway may open with what its limits
// allow to be open at once.
func (d *doctor) descriptors(context.Context) []Finding {
	needed := int64(500)                 // logs, state, epoll
	for _, l := range d.file.Listeners { // of sidecars none: they have few clients
		if l.Limits != nil {
			needed += int64(l.Limits.Connections)
		}
	}
	for _, s := range d.file.Services {
		if s.Limits != nil {
			needed += int64(s.Limits.Connections) * int64(max(1, len(s.Instances)))
		}
	}
	limit, of := d.openFiles()
	switch {
	case limit == 0:
		return nil
	case limit < 1024:
		return []Finding{fail("%s may open %d files; a gateway needs thousands", "LimitNOFILE=1048576 in the unit, or ulimit -n.", of, limit)}
	case limit < needed:
		return []Finding{warning("%s may open %d files, and the limits of listeners and services allow %d connections", "LimitNOFILE=1048576 in the unit, or ulimit -n; or lower limits { connections } of the listeners.", of, limit, needed)}
	default:
		return []Finding{good("%s may open %d files; the limits allow %d connections", of, limit, needed)}
	}
}

// openFiles is the limit that holds for the gateway: of the one that runs, of its
// unit, or of whoever asks. Go raises the soft limit to the hard one.
func (d *doctor) openFiles() (limit int64, of string) {
	if d.Running != nil {
		text, err := d.text(fmt.Sprintf("proc/%d/limits", d.Running.PID))
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); err == nil && strings.HasPrefix(line, "Max open files") && len(f) > 4 {
				limit, _ = strconv.ParseInt(f[4], 10, 64) // the hard one; "unlimited": 0, not known
			}
		}
		return limit, "the running gateway"
	}
	if d.Unit && d.unit.installed {
		return d.unit.files, "the unit"
	}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, ""
	}
	return int64(min(r.Max, math.MaxInt64)), "a process of this session"
}

// quicBuffer is what quic-go asks the kernel for.
const quicBuffer = 7340032

// quic sees whether UDP sockets get the buffers that HTTP/3 wants.
func (d *doctor) quic(context.Context) []Finding {
	used := false
	for _, l := range d.file.Listeners {
		used = used || slices.Contains(l.Protocols, "h3")
	}
	if !used {
		return nil
	}
	small := []string{}
	for _, name := range []string{"rmem_max", "wmem_max"} {
		text, err := d.text("proc/sys/net/core/" + name)
		if err != nil {
			return nil // of another network namespace, or an older kernel
		}
		if n, err := strconv.Atoi(text); err == nil && n < quicBuffer {
			small = append(small, fmt.Sprintf("net.core.%s=%d", name, n))
		}
	}
	if len(small) == 0 {
		return []Finding{good("UDP buffers may be as large as HTTP/3 wants them")}
	}
	return []Finding{warning("UDP buffers are small for HTTP/3 under load: %s",
		fmt.Sprintf("sysctl -w net.core.rmem_max=%[1]d net.core.wmem_max=%[1]d, and the same in /etc/sysctl.d/.", quicBuffer), strings.Join(small, " "))}
}

// memory compares what is kept in memory by configuration with what there is.
func (d *doctor) memory(context.Context) []Finding {
	var limit, used int64
	var of string
	if r := d.Running; r != nil {
		limit, of, used = r.Memory.Limit, r.Memory.LimitOf, r.Memory.Used
	} else {
		g := memory.NewGuard(memory.Deps{Root: d.root, Used: func() int64 { return 0 }}, d.file.MemoryLimit)
		g.Look()
		s := g.Status()
		limit, of, used = s.Limit, s.LimitOf, s.Used
	}
	if limit <= 0 {
		return nil
	}
	planned := d.planned()
	switch {
	case limit < 64<<20:
		return []Finding{fail("there are %d MiB, by %s: too little to serve with", "Raise MemoryMax of the unit, or memory_limit.", limit>>20, of)}
	case planned > limit/2:
		return []Finding{warning("%d MiB of %d (%s) may be taken by cached answers and counters alone", "Lower cache { memory } and counters { memory }, or give it more: from 85 % on requests are refused.", planned>>20, limit>>20, of)}
	case used > limit/100*85:
		return []Finding{warning("%d MiB of %d (%s) are used", "From 85 % on requests of low priority are refused.", used>>20, limit>>20, of)}
	default:
		return []Finding{good("%d MiB, by %s", limit>>20, of)}
	}
}

// planned is the memory that answers and counters may take.
func (d *doctor) planned() int64 {
	var n int64
	names := map[string]int64{"cache": d.file.Cache.Memory, "rate_limit": d.file.Counters.Memory}
	count := func(kind string) { n += names[kind]; delete(names, kind) }
	for _, r := range d.file.Routes {
		for _, b := range r.Policies {
			count(b.Kind.Name)
		}
	}
	for _, s := range d.file.Bundles {
		for _, b := range s.Policies {
			count(b.Kind.Name)
		}
	}
	return n
}

// kernel says which one it is, and looks at what bounds listeners.
func (d *doctor) kernel(context.Context) []Finding {
	release, err := d.text("proc/sys/kernel/osrelease")
	if err != nil {
		return nil
	}
	found := []Finding{good("Linux %s", release)}
	if major, minor := versionOf(release); major < 4 || major == 4 && minor < 18 {
		found[0] = warning("Linux %s is older than what the gateway is tested with", "4.18 and later are known to work.", release)
	}
	if text, err := d.text("proc/sys/net/core/somaxconn"); err == nil {
		if n, err := strconv.Atoi(text); err == nil && n < 1024 {
			found = append(found, warning("net.core.somaxconn is %d: when many clients connect at once, some have to try again", "sysctl -w net.core.somaxconn=4096, and the same in /etc/sysctl.d/.", n))
		}
	}
	return found
}

func versionOf(release string) (major, minor int) {
	a, rest, _ := strings.Cut(release, ".")
	b, _, _ := strings.Cut(rest, ".")
	major, _ = strconv.Atoi(a)                                                    // 0: odd enough to warn of
	minor, _ = strconv.Atoi(strings.TrimRight(b, "-+abcdefghijklmnopqrstuvwxyz")) // likewise
	return major, minor
}
