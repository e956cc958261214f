package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// composed is what we know of a service in compose.yaml; anything else fails the
// test.
type composed struct {
	Image       string            `yaml:"image"`
	Restart     string            `yaml:"restart"`
	Command     []string          `yaml:"command"`
	ReadOnly    bool              `yaml:"read_only"`
	Tmpfs       []string          `yaml:"tmpfs"`
	CapDrop     []string          `yaml:"cap_drop"`
	CapAdd      []string          `yaml:"cap_add"`
	SecurityOpt []string          `yaml:"security_opt"`
	StopGrace   string            `yaml:"stop_grace_period"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	NetworkMode string            `yaml:"network_mode"`
	DependsOn   []string          `yaml:"depends_on"`
	Networks    yaml.Node         `yaml:"networks"`
	Ulimits     map[string]int    `yaml:"ulimits"`
	Healthcheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
}

// address is the one that the service has on the network; "": any.
func (c *composed) address() string {
	var named map[string]struct {
		IP string `yaml:"ipv4_address"`
	}
	if c.Networks.Decode(&named) != nil { // a list of names
		return ""
	}
	return named["net"].IP
}

// TestCompose runs compose.yaml with podman, but for the names and the bridge of
// Docker's: each service has a network of its own, whose address is on a bridge of
// ours, in a network that ends with the test.
func TestCompose(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root, for containers")
	}
	for _, name := range []string{"podman", "buildah", "runc", "ip", "unshare", "nsenter", "curl"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s isn't here (apt-get install podman buildah runc iproute2): compose.yaml isn't run", name)
		}
	}
	consul, err := exec.Command("../../.ci/tool", "consul").Output()
	if err != nil {
		t.Skip("consul isn't here (make tools): compose.yaml isn't run")
	}
	text, err := os.ReadFile("../docker/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]*composed `yaml:"services"`
		Rest     map[string]any       `yaml:",inline"`
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	e := newEngine(t, strings.TrimSpace(string(consul)))
	for _, name := range []string{"consul", "orders", "users", "orders-sidecar", "users-sidecar", "edge"} {
		if file.Services[name] == nil {
			t.Fatalf("compose.yaml has no service %s", name)
		}
		e.run(name, file.Services[name])
	}
	if len(file.Services) != 6 {
		t.Errorf("compose.yaml has the services %v", slices.Sorted(maps.Keys(file.Services)))
	}
	for path, want := range map[string]string{"/": "orders", "/users": "users"} {
		e.eventually("GET "+path, func() error { return e.get(path, want) })
	}
	for name, c := range file.Services {
		if len(c.Healthcheck.Test) > 0 || name == "edge" {
			e.eventually("the health of "+name, func() error { _, err := e.podman("healthcheck", "run", name); return err })
		}
	}
	e.mustPodman("stop", "-t", "45", "users-sidecar")
	if out := e.mustPodman("inspect", "--format", "{{.State.ExitCode}}", "users-sidecar"); strings.TrimSpace(out) != "0" {
		t.Errorf("a sidecar that is stopped ends with %s", out)
	}
	if err := e.get("/users", "users"); err == nil {
		t.Error("a service is reached without its sidecar")
	}
	if err := e.get("/", "orders"); err != nil {
		t.Error(err)
	}
	e.mustPodman("stop", "-t", "40", "edge")
	if out := e.mustPodman("inspect", "--format", "{{.State.ExitCode}}", "edge"); strings.TrimSpace(out) != "0" {
		t.Errorf("an edge that is stopped ends with %s", out)
	}
}

// engine is podman in a network and a folder of its own.
type engine struct {
	t    *testing.T
	dir  string
	pid  string // of a process in the network
	next int
	edge string // its address
}

func newEngine(t *testing.T, consul string) *engine {
	dir := t.TempDir()
	e := &engine{t: t, dir: dir, next: 100}
	holder := exec.Command("unshare", "-m", "-n", "--propagation", "private", "sleep", "infinity")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	e.pid = fmt.Sprint(holder.Process.Pid)
	t.Cleanup(func() { _ = holder.Process.Kill(); _ = holder.Wait() }) // it ends by that
	e.eventually("a network", func() error {
		own, err := os.Readlink("/proc/self/ns/net")
		there, terr := os.Readlink("/proc/" + e.pid + "/ns/net")
		if own == there {
			err = errors.New("it is ours")
		}
		return errors.Join(err, terr)
	})
	e.sh("ip link set lo up && ip link add net type bridge && ip addr add 10.89.77.1/24 dev net && ip link set net up")
	t.Cleanup(func() {
		if t.Failed() {
			for _, name := range []string{"edge", "orders-sidecar", "users-sidecar", "orders", "users"} {
				out, _ := e.podman("logs", "--tail", "5", name)
				t.Logf("%s: %s", name, out)
			}
		}
		_, _ = e.podman("rm", "-fa", "-t", "1") // the folder goes in any case
	})

	bin := filepath.Join(dir, "sidegate")
	build := exec.Command("go", "build", "-o", bin, "../../cmd/sidegate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	archive := filepath.Join(dir, "image.tar")
	image := exec.Command("packaging/image.sh", bin, "test", "compose", archive)
	image.Dir = "../.."
	if out, err := image.CombinedOutput(); err != nil {
		t.Fatalf("image.sh: %v\n%s", err, out)
	}
	e.mustPodman("load", "-q", "-i", archive)
	if err := os.Mkdir(filepath.Join(dir, "consul"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "consul", "Dockerfile"), []byte("FROM scratch\nCOPY consul /consul\nENTRYPOINT [\"/consul\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e.sh("cp " + consul + " " + dir + "/consul/consul && buildah --root " + dir + "/root --runroot " + dir + "/runroot --storage-driver vfs bud --isolation chroot --format docker -q -t localhost/consul:compose " + dir + "/consul")
	return e
}

// sh runs a command in the network.
func (e *engine) sh(command string) string {
	e.t.Helper()
	out, err := exec.Command("nsenter", "-t", e.pid, "-m", "-n", "sh", "-ec", command).CombinedOutput()
	if err != nil {
		e.t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return string(out)
}

func (e *engine) podman(args ...string) (string, error) {
	args = append([]string{"-t", e.pid, "-m", "-n", "podman", "--root", e.dir + "/root", "--runroot", e.dir + "/runroot", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"}, args...)
	out, err := exec.Command("nsenter", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("podman %v: %w\n%s", args[13:], err, out)
	}
	return string(out), err
}

func (e *engine) mustPodman(args ...string) string {
	e.t.Helper()
	out, err := e.podman(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

// run starts a service, with all that its file says of its rights.
func (e *engine) run(name string, c *composed) {
	e.t.Helper()
	// Without these podman sets limits that take CAP_SYS_RESOURCE.
	args := []string{"run", "-d", "--name", name, "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096"}
	add := func(flag string, values ...string) {
		for _, v := range values {
			args = append(args, flag, v)
		}
	}
	if c.ReadOnly {
		args = append(args, "--read-only")
	} else if name != "consul" {
		e.t.Errorf("%s may write to its root", name)
	}
	add("--tmpfs", c.Tmpfs...)
	add("--cap-drop", c.CapDrop...)
	add("--cap-add", c.CapAdd...)
	for _, o := range c.SecurityOpt {
		add("--security-opt", strings.TrimSuffix(o, ":true"))
	}
	for k, v := range c.Environment {
		add("--env", k+"="+v)
	}
	for _, v := range c.Volumes {
		if from, ok := strings.CutPrefix(v, "./"); ok {
			abs, err := filepath.Abs("../docker/" + from)
			if err != nil {
				e.t.Fatal(err)
			}
			v = abs
		}
		add("--volume", v)
	}
	if len(c.Healthcheck.Test) > 0 {
		add("--health-cmd", strings.Join(c.Healthcheck.Test[1:], " "))
		args[len(args)-1] = `["CMD","` + strings.Join(c.Healthcheck.Test[1:], `","`) + `"]`
	}
	if of, ok := strings.CutPrefix(c.NetworkMode, "service:"); ok {
		add("--network", "container:"+of)
	} else {
		add("--network", "ns:"+e.network(name, c.address()))
	}
	image := "localhost/sidegate:compose"
	if name == "consul" {
		image = "localhost/consul:compose"
	}
	e.mustPodman(append(append(args, image), c.Command...)...)
}

// network makes one for a container, with an address on the bridge.
func (e *engine) network(name, address string) string {
	e.next++
	if address == "" {
		address = fmt.Sprintf("10.89.77.%d", e.next)
	}
	ns := fmt.Sprintf("%s/%s.ns", e.dir, name)
	e.sh(fmt.Sprintf(`touch %[1]s && unshare --net=%[1]s ip link set lo up
ip link add v%[2]d type veth peer name eth0 netns %[1]s
ip link set v%[2]d master net up
nsenter --net=%[1]s sh -ec 'ip addr add %[3]s/24 dev eth0; ip link set eth0 up'`, ns, e.next, address))
	if name == "edge" {
		e.edge = address
	}
	return ns
}

// get asks the edge, from the bridge.
func (e *engine) get(path, want string) error {
	out, err := exec.Command("nsenter", "-t", e.pid, "-n", "curl", "-sk", "--max-time", "5", "--resolve", "orders.localhost:443:"+e.edge, "https://orders.localhost"+path).CombinedOutput()
	if err == nil && string(out) != want {
		err = fmt.Errorf("GET %s: %q, want %q", path, out, want)
	}
	return err
}

// eventually waits until f has no error.
func (e *engine) eventually(what string, f func() error) {
	e.t.Helper()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for end := time.Now().Add(60 * time.Second); ; <-t.C {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			e.t.Fatalf("%s: %v", what, err)
		}
	}
}
