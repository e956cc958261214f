package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

// ports sees whether the gateway may listen where it is to.
func (d *doctor) ports(ctx context.Context) []Finding {
	var found []Finding
	for _, l := range app.Listeners(d.file) {
		what := fmt.Sprintf("listener %q", l.Name)
		if path, ok := strings.CutPrefix(l.Address, "unix://"); ok {
			found = append(found, d.socket(ctx, what, path))
			continue
		}
		found = append(found, d.port(ctx, what, "tcp", l.Address))
		if slices.Contains(l.Protocols, "h3") {
			found = append(found, d.port(ctx, what, "udp", l.Address))
		}
	}
	if d.file.Admin.Address == "" { // of sidecars
		return found
	}
	return append(found, d.port(ctx, "admin server", "tcp", d.file.Admin.Address))
}

func (d *doctor) port(ctx context.Context, what, network, address string) Finding {
	err := bind(ctx, network, address)
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text) // validated
	switch {
	case err == nil:
		return d.allowed(what, network, address, port)
	case errors.Is(err, syscall.EADDRINUSE):
		pid, name := d.holder(ctx, network, port)
		if d.Running != nil && (pid == d.Running.PID || pid == 0 || network == "tcp" && d.serves(what, text)) {
			return good("%s: %s/%s is served by the running gateway, pid %d", what, address, network, d.Running.PID)
		}
		by := "by another process (root sees which)"
		if pid != 0 {
			by = fmt.Sprintf("by %s, pid %d", name, pid)
		}
		return fail("%s: %s/%s is taken %s", "Stop that process, or give the listener another address.", what, address, network, by)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		if d.Unit && d.unit.installed {
			return good("%s: %s/%s: the unit has the right to it", what, address, network)
		}
		return fail("%s: %s/%s: this user may not bind ports below %d", "Run it by its unit, which has CAP_NET_BIND_SERVICE, or: setcap cap_net_bind_service=+ep on the binary.", what, address, network, d.privileged())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fail("%s: %s/%s: no interface of this machine has that address", "Write an address that `ip address` shows, or none for all.", what, address, network)
	default:
		return fail("%s: %s/%s: %v", "Write an address of this machine and a port, like 10.0.0.1:443, or :443 for all addresses.", what, address, network, err)
	}
}

// serves reports whether the running gateway has that listener on that port: another
// process may have the port of another address.
func (d *doctor) serves(what, port string) bool {
	for _, l := range d.Running.Listeners {
		_, own, err := net.SplitHostPort(l.Address)
		if err == nil && own == port && what == fmt.Sprintf("listener %q", l.Name) {
			return true
		}
	}
	return false
}

// socket sees whether the gateway may listen on a unix socket.
func (d *doctor) socket(ctx context.Context, what, path string) Finding {
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return fail("%s: %s is there and isn't a socket", "Remove it, or choose another path.", what, path)
	case err == nil && d.Running == nil && app.Reaches(ctx, "unix://"+path) == nil:
		return fail("%s: %s is taken by another process", "Find it with: ss -lxp", what, path)
	}
	folder := filepath.Dir(path)
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return fail("%s: the folder %s isn't there", "Create it, for the gateway's user to write into: RuntimeDirectory= in a unit does.", what, folder)
	}
	if unix.Access(folder, unix.W_OK|unix.X_OK) != nil && d.who.uid == os.Geteuid() {
		return fail("%s: this user may not write into %s", "Give it the folder, or choose another path.", what, folder)
	}
	return good("%s: %s can be listened on", what, path)
}

// sidecars sees whether their apps take connections.
func (d *doctor) sidecars(ctx context.Context) []Finding {
	var found []Finding
	for _, s := range d.file.Sidecars {
		if err := app.Reaches(ctx, s.App); err != nil {
			found = append(found, warning("sidecar %q: the app on %s takes no connection: %v", "Start it: the service is registered as soon as it listens.", s.Name, s.App, cause(err)))
			continue
		}
		found = append(found, good("sidecar %q: the app on %s takes connections", s.Name, s.App))
	}
	return found
}

// allowed is about a port that whoever asks could bind: may the gateway's user?
func (d *doctor) allowed(what, network, address string, port int) Finding {
	if port < d.privileged() && d.who.uid != 0 && d.who.uid != os.Geteuid() && !(d.Unit && d.unit.installed) {
		return warning("%s: %s/%s is free, but the user %s may bind it only with CAP_NET_BIND_SERVICE", "The unit of the packages has it: AmbientCapabilities=CAP_NET_BIND_SERVICE.", what, address, network, d.who.name)
	}
	return good("%s: %s/%s is free", what, address, network)
}

// privileged is the first port that needs no right.
func (d *doctor) privileged() int {
	text, err := d.text("proc/sys/net/ipv4/ip_unprivileged_port_start")
	n, bad := strconv.Atoi(text)
	if err != nil || bad != nil {
		return 1024
	}
	return n
}

// bind takes an address and lets it go at once.
func bind(ctx context.Context, network, address string) error {
	var l net.ListenConfig
	if network == "udp" {
		c, err := l.ListenPacket(ctx, network, address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	c, err := l.Listen(ctx, network, address)
	if err != nil {
		return err
	}
	return c.Close()
}

// holder finds the process that listens on a port; 0 if that can't be seen.
func (d *doctor) holder(ctx context.Context, network string, port int) (pid int, name string) {
	inodes := map[string]bool{}
	for _, family := range []string{"", "6"} {
		text, err := d.text("proc/net/" + network + family)
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			// sl local_address rem_address st … uid timeout inode
			f := strings.Fields(line)
			if len(f) < 10 || network == "tcp" && f[3] != "0A" { // listening
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			if n, err := strconv.ParseUint(hex, 16, 16); err == nil && int(n) == port {
				inodes["socket:["+f[9]+"]"] = true
			}
		}
	}
	fds, err := filepath.Glob(d.root + "proc/[0-9]*/fd/*")
	if err != nil {
		return 0, ""
	}
	for _, fd := range fds {
		if ctx.Err() != nil {
			return 0, ""
		}
		if link, err := os.Readlink(fd); err != nil || !inodes[link] {
			continue
		}
		of := strings.Split(strings.TrimPrefix(fd, d.root+"proc/"), "/")[0]
		if pid, err = strconv.Atoi(of); err == nil {
			name, _ = d.text("proc/" + of + "/comm") // it may have gone
			return pid, name
		}
	}
	return 0, ""
}
