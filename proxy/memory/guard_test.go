package memory

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
)

// machine is a file system with the files that tell of memory.
type machine struct {
	*testing.T
	root string
}

func newMachine(t *testing.T, group string) *machine {
	m := &machine{t, t.TempDir()}
	m.write("proc/meminfo", "MemTotal:        1000000 kB\nMemFree: 5 kB\n")
	m.write("proc/self/cgroup", group)
	return m
}

func (m *machine) write(name, text string) {
	m.Helper()
	name = filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) guard(configured int64, own int64) (*Guard, *test.Hook) {
	log, hook := test.NewNullLogger()
	return NewGuard(Deps{Log: log, Root: m.root, Used: func() int64 { return own }}, configured), hook
}

const mib = 1 << 20

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		name       string
		group      string
		files      map[string]string
		configured int64
		want       Status
	}{
		{"nothing known but the machine", "", nil, 0, Status{Limit: 1000000 << 10, LimitOf: "the machine", Used: 40 * mib}},
		{"of the configuration", "", nil, 100 * mib, Status{Limit: 100 * mib, LimitOf: "memory_limit", Used: 40 * mib}},
		{
			"version 2", "0::/system.slice/sidegate.service\n", map[string]string{
				"sys/fs/cgroup/system.slice/sidegate.service/memory.max":     "209715200\n",
				"sys/fs/cgroup/system.slice/sidegate.service/memory.high":    "max\n",
				"sys/fs/cgroup/system.slice/sidegate.service/memory.current": "104857600\n",
				"sys/fs/cgroup/system.slice/memory.max":                      "max\n",
				"sys/fs/cgroup/system.slice/memory.current":                  "904857600\n",
			}, 0, Status{Limit: 200 * mib, LimitOf: "memory.max", Used: 100 * mib},
		},
		{
			"what slows down counts", "0::/a\n", map[string]string{
				"sys/fs/cgroup/a/memory.max": "209715200\n", "sys/fs/cgroup/a/memory.high": "157286400\n", "sys/fs/cgroup/a/memory.current": "104857600\n",
			}, 0, Status{Limit: 150 * mib, LimitOf: "memory.high", Used: 100 * mib},
		},
		{
			"a slice above is tighter", "0::/s/u\n", map[string]string{
				"sys/fs/cgroup/s/u/memory.max": "209715200\n", "sys/fs/cgroup/s/u/memory.current": "52428800\n",
				"sys/fs/cgroup/s/memory.max": "419430400\n", "sys/fs/cgroup/s/memory.current": "209715200\n",
			}, 0, Status{Limit: 400 * mib, LimitOf: "memory.max", Used: 200 * mib},
		},
		{
			"version 1 beside an empty version 2", "9:name=systemd:/\n4:memory:/a\n3:cpu,cpuacct:/b\n0::/\n", map[string]string{
				"sys/fs/cgroup/unified/cgroup.procs":           "",
				"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
				"sys/fs/cgroup/memory/memory.usage_in_bytes":   "904857600\n",
				"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "209715200\n",
				"sys/fs/cgroup/memory/a/memory.usage_in_bytes": "104857600\n",
			}, 0, Status{Limit: 200 * mib, LimitOf: "memory.limit_in_bytes", Used: 100 * mib},
		},
		{
			"a container whose group only the host knows", "4:memory:/docker/0123\n", map[string]string{
				"sys/fs/cgroup/memory/memory.limit_in_bytes": "209715200\n",
				"sys/fs/cgroup/memory/memory.usage_in_bytes": "104857600\n",
			}, 0, Status{Limit: 200 * mib, LimitOf: "memory.limit_in_bytes", Used: 100 * mib},
		},
		{
			"the group's is tighter than the configuration's", "0::/a\n", map[string]string{
				"sys/fs/cgroup/a/memory.max": "209715200\n", "sys/fs/cgroup/a/memory.current": "104857600\n",
			}, 500 * mib, Status{Limit: 200 * mib, LimitOf: "memory.max", Used: 100 * mib},
		},
		{
			"files in memory that can go don't count", "0::/a\n", map[string]string{
				"sys/fs/cgroup/a/memory.max": "209715200\n", "sys/fs/cgroup/a/memory.current": "199229440\n",
				"sys/fs/cgroup/a/memory.stat": "anon 1\nfile 94371840\ninactive_file 62914560\nactive_file 20971520\nslab_reclaimable 10485760\n",
			}, 0, Status{Limit: 200 * mib, LimitOf: "memory.max", Used: 100 * mib},
		},
		{
			"a group without files", "0::/gone\n", nil, 0, Status{Limit: 1000000 << 10, LimitOf: "the machine", Used: 40 * mib},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t, tt.group)
			for name, text := range tt.files {
				m.write(name, text)
			}
			g, _ := m.guard(tt.configured, 40*mib)
			g.Look()
			tt.want.Level = "enough"
			if got := g.Status(); got != tt.want {
				t.Errorf("status = %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestLevels: low priority goes first; leaving takes less than reaching; each
// episode is told once.
func TestLevels(t *testing.T) {
	m := newMachine(t, "0::/a\n")
	m.write("sys/fs/cgroup/a/memory.max", "1000000\n")
	g, hook := m.guard(0, 0)
	for i, tt := range []struct {
		used int
		want Level
		said string
	}{
		{840000, Enough, ""},
		{850000, Scarce, "memory is scarce: requests of low priority are refused"},
		{800000, Scarce, ""},
		{949999, Scarce, ""},
		{950000, Full, "memory is nearly used up: new requests and connections are refused"},
		{900000, Full, ""},
		{899999, Scarce, ""},
		{960000, Full, "memory is nearly used up: new requests and connections are refused"},
		{790000, Enough, "there is enough memory again"},
		{849999, Enough, ""},
		{999999, Full, "memory is nearly used up: new requests and connections are refused"},
		{1, Enough, "there is enough memory again"},
	} {
		m.write("sys/fs/cgroup/a/memory.current", fmt.Sprintln(tt.used))
		hook.Reset()
		g.Look()
		var said []string
		for _, e := range hook.AllEntries() {
			said = append(said, e.Message)
		}
		if got := strings.Join(said, "|"); g.Level() != tt.want || got != tt.said {
			t.Errorf("%d: with %d: %v and %q, want %v and %q", i, tt.used, g.Level(), got, tt.want, tt.said)
		}
		if g.TurnsAway() != (tt.want == Full) {
			t.Errorf("%d: connections are turned away: %t", i, tt.want != Full)
		}
		if tt.want == Full {
			g.Refuse(Full)
		}
	}
	last := hook.LastEntry()
	if last == nil || last.Level != logrus.InfoLevel || last.Data["refused"] != uint64(1) || last.Data["limit_of"] != "memory.max" {
		t.Errorf("the end of the last episode says %+v", last)
	}
	st := g.Status()
	if st.RefusedFull != 4 || st.RefusedScarce != 0 || st.TurnedAway != 4 {
		t.Errorf("status = %+v", st)
	}
}

// TestChanges: limits may change while the process runs.
func TestChanges(t *testing.T) {
	m := newMachine(t, "0::/a\n")
	m.write("sys/fs/cgroup/a/memory.max", "2000000\n")
	m.write("sys/fs/cgroup/a/memory.current", "970000\n")
	var told []int64
	at := time.Now()
	g := NewGuard(Deps{Log: logrus.New(), Root: m.root, Used: func() int64 { return 0 }, Now: func() time.Time { return at }, Collect: func(n int64) { told = append(told, n) }}, 0)
	g.Look()
	m.write("sys/fs/cgroup/a/memory.max", "1000000\n")
	g.Look()
	if g.Level() != Enough {
		t.Errorf("%v without having looked for limits", g.Level())
	}
	at = at.Add(findEvery)
	if pause := g.Look(); pause != 10*time.Millisecond {
		t.Errorf("the next look is in %s", pause)
	}
	if g.Level() != Full {
		t.Errorf("%v with 97 %% of the new limit", g.Level())
	}
	g.SetLimit(400000)
	g.Look()
	if want := []int64{1500000, 750000, 300000}; !slices.Equal(told, want) {
		t.Errorf("the collector was told of %d, want %d", told, want)
	}
}

// TestNoFiles: a flood that uses up the process's files doesn't blind it.
func TestNoFiles(t *testing.T) {
	m := newMachine(t, "0::/a\n")
	m.write("sys/fs/cgroup/a/memory.max", "1000000\n")
	m.write("sys/fs/cgroup/a/memory.current", "970000\n")
	at := time.Now()
	g := NewGuard(Deps{Log: logrus.New(), Root: m.root, Used: func() int64 { return 0 }, Now: func() time.Time { return at }}, 0)
	g.Look()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	at = at.Add(findEvery)
	g.Look()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if st := g.Status(); g.Level() != Full || st.LimitOf != "memory.max" {
		t.Errorf("without files: %+v", st)
	}
	m.write("sys/fs/cgroup/a/memory.current", "1\n")
	if g.Look(); g.Level() != Enough {
		t.Errorf("with files again: %+v", g.Status())
	}
	if err := os.RemoveAll(filepath.Join(m.root, "sys")); err != nil {
		t.Fatal(err)
	}
	at = at.Add(findEvery)
	if g.Look(); g.Status().LimitOf != "the machine" {
		t.Errorf("without a group: %+v", g.Status())
	}
}

func TestNone(t *testing.T) {
	var g *Guard
	if g.Level() != Enough || g.TurnsAway() {
		t.Error("without a guard there isn't enough memory")
	}
	if n := used(); n < mib {
		t.Errorf("%d bytes are used by this process", n)
	}
}
