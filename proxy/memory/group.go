package memory

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// gauge is a limit, and how to read what is used of it.
type gauge struct {
	limit int64
	of    string
	// used is the process's own; nil: the files of a control group.
	used        func() int64
	usage, stat string
	reclaim     []string // what of stat goes before anybody is killed
	last        reading
}

// read returns what is used of the limit. What can't be read now is as it was:
// when connections have used up the files that the process may open, it is no
// time to look away.
func (g *gauge) read() (reading, bool) {
	r := reading{limit: g.limit, of: g.of}
	if g.used != nil {
		r.used = g.used()
		return r, true
	}
	var f files
	var ok bool
	if r.used, ok = f.number(g.usage); !ok {
		return g.last, f.failed && g.last.limit > 0 // else the group is gone: the next find will tell
	}
	// Pages of files count in the group's usage, and go before anybody is killed;
	// without this, a process beside us that reads large files would have us refuse
	// requests. It takes the kernel longer to add that up.
	if 100*r.used >= scarceTo*g.limit {
		r.used -= f.sum(g.stat, g.reclaim...)
	}
	if f.failed && g.last.limit > 0 {
		return g.last, true
	}
	g.last = r
	return r, true
}

// find returns the limits that hold for this process, and not ok when they can't
// all be read now.
func (g *Guard) find() (list []gauge, ok bool) {
	var f files
	machine := 1024 * f.sum(g.file("proc/meminfo"), "MemTotal:")
	if g.configured > 0 {
		list = append(list, gauge{limit: g.configured, of: "memory_limit", used: g.Used})
	} else if machine > 0 {
		list = append(list, gauge{limit: machine, of: "the machine", used: g.Used})
	}
	for line := range strings.Lines(f.text(g.file("proc/self/cgroup"))) { // not there: no groups
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, ok := strings.Cut(rest, ":")
		switch {
		case !ok:
		case controllers == "":
			list = append(list, g.unified(&f, group, machine)...)
		case strings.Contains(","+controllers+",", ",memory,"):
			list = append(list, g.legacy(&f, group, machine)...)
		}
	}
	return list, !f.failed
}

func (g *Guard) file(name string) string { return filepath.Join(g.Root, name) }

// unified returns the limits of a version 2 group and those above it. What is
// over memory.high isn't killed but slowed down to a crawl, which is no better.
func (g *Guard) unified(f *files, group string, machine int64) []gauge {
	base := "sys/fs/cgroup"
	if _, err := os.Stat(g.file(base + "/unified")); err == nil {
		base += "/unified"
	}
	var list []gauge
	for _, dir := range upwards(g.file(base), group) {
		for _, name := range []string{"memory.max", "memory.high"} {
			if limit, ok := f.number(filepath.Join(dir, name)); ok && limit > 0 && (machine == 0 || limit < machine) {
				list = append(list, gauge{
					limit: limit, of: name, usage: filepath.Join(dir, "memory.current"), stat: filepath.Join(dir, "memory.stat"),
					reclaim: []string{"inactive_file", "active_file", "slab_reclaimable"},
				})
			}
		}
	}
	return list
}

// legacy does so for version 1.
func (g *Guard) legacy(f *files, group string, machine int64) []gauge {
	var list []gauge
	for _, dir := range upwards(g.file("sys/fs/cgroup/memory"), group) {
		limit, ok := f.number(filepath.Join(dir, "memory.limit_in_bytes"))
		if ok && limit > 0 && (machine == 0 || limit < machine) { // without one it is the largest number of pages
			list = append(list, gauge{
				limit: limit, of: "memory.limit_in_bytes", usage: filepath.Join(dir, "memory.usage_in_bytes"),
				stat: filepath.Join(dir, "memory.stat"), reclaim: []string{"total_inactive_file", "total_active_file"},
			})
		}
	}
	return list
}

// upwards are the folders of a group and those above it, up to the mount. In a
// container the group may have a name that only the host knows: then its folder
// isn't there, and the mount's is its own.
func upwards(base, group string) []string {
	group = path.Clean("/" + group) // no .. leads out of base
	var list []string
	for ; ; group = path.Dir(group) {
		list = append(list, filepath.Join(base, group))
		if group == "/" {
			return list
		}
	}
}

// files reads small files.
type files struct {
	failed bool // one couldn't be opened, for want of what will be there again
}

// text is what is in a file; "" when it isn't there.
func (f *files) text(name string) string {
	b, err := os.ReadFile(name)
	f.failed = f.failed || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
	return string(b)
}

// number is that in a file; "max" is none.
func (f *files) number(name string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(f.text(name)), 10, 64)
	return n, err == nil
}

// sum adds up the numbers behind these names in a file of names and numbers.
func (f *files) sum(file string, names ...string) (n int64) {
	for line := range strings.Lines(f.text(file)) { // not there: nothing to add
		w := strings.Fields(line)
		if len(w) < 2 || !slices.Contains(names, w[0]) {
			continue
		}
		if v, err := strconv.ParseInt(w[1], 10, 64); err == nil {
			n += v
		}
	}
	return n
}
