package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

func hello() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
}

// pathsIn are the paths in the lines of files, each of which has to be a line.
func pathsIn(t *testing.T, files ...string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			var l logLine
			if err := json.Unmarshal([]byte(line), &l); err != nil || !strings.HasSuffix(line, "\n") {
				t.Fatalf("%s: %q: %v", f, line, err)
			}
			seen[l.Path]++
		}
	}
	return seen
}

// load sends requests for one path after another until stop; it returns how many
// there were.
func (g *gateway) load(t *testing.T, workers int) (stop func() int64) {
	t.Helper()
	var sent atomic.Int64
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		c := g.clients(t)[3]
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := fetch(c.Client, fmt.Sprintf("http://one.test/%d", sent.Add(1))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return sync.OnceValue(func() int64 {
		close(done)
		wg.Wait()
		return sent.Load()
	})
}

// TestLogRotation: logrotate's rename and SIGUSR1, or SIGHUP, lose no line of a
// gateway under load, and cut none; after its copytruncate the file goes on.
func TestLogRotation(t *testing.T) {
	real(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	g := newGateway(t, fmt.Sprintf("access_log { output = %q }\n", path)+twin(t, hello())).start(t)
	stop := g.load(t, 4)
	files := []string{path}
	for i, s := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR1, syscall.SIGHUP, syscall.SIGUSR1} {
		old := fmt.Sprintf("%s.%d", path, i)
		files = append(files, old)
		eventually(t, "lines", func() error {
			if info, err := os.Stat(path); err != nil || info.Size() < 10_000 {
				return errors.New("too few")
			}
			return nil
		})
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		g.signal(s)
		eventually(t, "new file", func() error { _, err := os.Stat(path); return err })
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("the log's mode: %v, %v", info.Mode(), err)
	}
	n := stop()
	metrics, err := g.get("/metrics")
	if err != nil || !strings.Contains(metrics, "sidegate_access_log_dropped_total 0\n") {
		t.Errorf("dropped lines: %v", err)
	}
	eventually(t, "all lines", func() error {
		if seen := pathsIn(t, files...); len(seen) != int(n) {
			return fmt.Errorf("%d of %d", len(seen), n)
		}
		return nil
	})
	for p, times := range pathsIn(t, files...) {
		if times != 1 {
			t.Errorf("%s is there %d times", p, times)
		}
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(g.client(true), "https://one.test/after"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "line after copytruncate", func() error {
		if b, _ := os.ReadFile(path); !strings.HasPrefix(string(b), "{") || !strings.Contains(string(b), `"/after"`) {
			return fmt.Errorf("%q", b)
		}
		return nil
	})
	g.stop(syscall.SIGTERM)
}

// TestLogrotate: the tool itself, in both of its ways.
func TestLogrotate(t *testing.T) {
	real(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	g := newGateway(t, fmt.Sprintf("access_log { output = %q }\n", path)+twin(t, hello())).start(t)
	c := g.client(true)
	for i, how := range []string{fmt.Sprintf("postrotate\n kill -USR1 %d\n endscript", g.cmd.Process.Pid), "copytruncate"} {
		before, after := fmt.Sprintf("/before-%d", i), fmt.Sprintf("/after-%d", i)
		logs := func(p string) {
			t.Helper()
			if _, err := fetch(c, "https://one.test"+p); err != nil {
				t.Fatal(err)
			}
			eventually(t, p, func() error {
				if pathsIn(t, path)[p] != 1 {
					return errors.New("none")
				}
				return nil
			})
		}
		logs(before)
		conf := write(t, filepath.Join(dir, "logrotate.conf"), fmt.Sprintf("%s {\n rotate 5\n nocompress\n %s\n}\n", path, how))
		if out, err := exec.Command(tool(t, "logrotate"), "-f", "-s", filepath.Join(dir, "state"), conf).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		eventually(t, "new file", func() error { _, err := os.Stat(path); return err })
		logs(after)
		if seen := pathsIn(t, path); seen[before] != 0 {
			t.Errorf("%s: %v", how, seen)
		}
		if seen := pathsIn(t, path+".1"); seen[before] != 1 || seen[after] != 0 {
			t.Errorf("%s: rotated %v", how, seen)
		}
	}
}

// TestLogDiskFull: a full disk costs no request; with room again, what was kept
// meanwhile is written, and no line is cut.
func TestLogDiskFull(t *testing.T) {
	real(t)
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("this machine doesn't let a test mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	fill, path := filepath.Join(dir, "fill"), filepath.Join(dir, "access.log")
	if err := os.WriteFile(fill, make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, fmt.Sprintf("access_log { output = %q }\n", path)+twin(t, hello())).start(t)
	stop := g.load(t, 2)
	eventually(t, "word of the full disk", func() error {
		if !strings.Contains(g.log.String(), "the access_log can't be written") {
			return errors.New("none")
		}
		return nil
	})
	n := stop()
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	eventually(t, "word of room", func() error {
		if !strings.Contains(g.log.String(), "the access_log can be written again") {
			return errors.New("none")
		}
		return nil
	})
	g.stop(syscall.SIGTERM) // what still doesn't fit is counted
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole := b[:strings.LastIndexByte(string(b), '\n')+1] // the last may be cut: the disk is full again
	if err := os.WriteFile(path+".whole", whole, 0o600); err != nil {
		path = write(t, filepath.Join(t.TempDir(), "whole"), string(whole))
	} else {
		path += ".whole"
	}
	if seen := pathsIn(t, path); len(seen) == 0 || len(seen) > int(n) {
		t.Errorf("%d lines of %d", len(seen), n)
	}
	if strings.Count(g.log.String(), "the access_log can't be written") > 3 {
		t.Errorf("it says so again and again:\n%s", g.log)
	}
}

// TestLogNobodyReads: a pipe without a reader, and a stdout whose reader has gone,
// hold up no request and not the gateway's end.
func TestLogNobodyReads(t *testing.T) {
	real(t)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{pipe, "stdout"} {
		g := newGateway(t, fmt.Sprintf("access_log { output = %q }\n", output)+twin(t, hello()))
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		g.process = &process{t: t, cmd: exec.Command(bin, "run", "-config", filepath.Join(g.dir, "etc")), log: &lockedBuffer{}, done: make(chan struct{})}
		g.cmd.Stdout, g.cmd.Stderr = w, g.process.log
		if err := g.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { defer close(g.done); _ = g.cmd.Wait() }()
		t.Cleanup(func() { g.stop(syscall.SIGKILL); _ = w.Close() })
		eventually(t, "ready", func() error { _, err := g.get("/readyz"); return err })
		long := "http://one.test/" + strings.Repeat("x", 4000)
		c := g.clients(t)[3]
		var wg sync.WaitGroup
		for range 4 { // 1 MiB in each of 16 buffers
			wg.Go(func() {
				for range 1500 {
					if _, err := fetch(c.Client, long); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		eventually(t, "dropped lines", func() error {
			m, err := g.get("/metrics")
			if err == nil && strings.Contains(m, "sidegate_access_log_dropped_total 0\n") {
				err = errors.New("none")
			}
			return err
		})
		eventually(t, "word of it", func() error {
			if !strings.Contains(g.process.log.String(), "lines of the access_log are dropped") {
				return errors.New("none")
			}
			return nil
		})
		g.stop(syscall.SIGTERM)
		if code := g.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s: it ends with %d:\n%s", output, code, g.process.log)
		}
	}
}

// combinedLine is a strict parser of Apache's combined format.
var combinedLine = regexp.MustCompile(`^(\d+\.\d+\.\d+\.\d+) - (\S+) \[\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000\] "((?:[^"\\]|\\["\\bnrtvx])*)" (\d{3}) (\d+|-) "((?:[^"\\]|\\["\\bnrtvx])*)" "((?:[^"\\]|\\["\\bnrtvx])*)"$`)

// TestLogCombined: what clients send doesn't break the format, and what redact
// names, or auth reads, isn't in it; fields and format change by a reload.
func TestLogCombined(t *testing.T) {
	real(t)
	path := filepath.Join(t.TempDir(), "access.log")
	routes := twin(t, hello()) + `
service "kept" { instances = ["127.0.0.1:1"] }
route "keyed" {
  hosts   = ["keyed.test"]
  service = "kept"
  auth "api_key" { query = "key" }
}
`
	g := newGateway(t, fmt.Sprintf("access_log {\n output = %q\n format = \"combined\"\n redact = [\"token\"]\n}\n", path)+routes).start(t)
	for _, tt := range []struct{ request, line, status, size, referer, agent string }{
		{"GET /a//b?x=1&token=s3cret HTTP/1.1\r\nHost: one.test\r\nUser-Agent: a \"b\" \\ \xff\x7e\r\nReferer: https://x.test/?token=s3cret&q=1\r\n\r\n",
			"GET /a//b?x=1&token=*** HTTP/1.1", "200", "5", "https://x.test/?token=***&q=1", `a \"b\" \\ \xff~`},
		{"HEAD / HTTP/1.0\r\nHost: one.test\r\n\r\n", "HEAD / HTTP/1.0", "200", "-", "-", "-"},
		{"GET /?key=s3cret&y HTTP/1.1\r\nHost: keyed.test\r\n\r\n", "GET /?key=***&y HTTP/1.1", "401", "\\d+", "-", "-"},
		{"GET /?key=s3cret HTTP/1.1\r\nHost: nobody.test\r\n\r\n", "GET /?key=*** HTTP/1.1", "404", "\\d+", "-", "-"},
		{"GET /%00 HTTP/1.1\r\nHost: one.test\r\n\r\n", "GET /%00 HTTP/1.1", "400", "\\d+", "-", "-"},
		{"BAD\r\n\r\n", "-", "400", "\\d+", "-", "-"},
	} {
		before, _ := os.ReadFile(path)
		c := g.raw(t)
		if _, err := io.WriteString(c, tt.request); err != nil {
			t.Fatal(err)
		}
		var line string
		eventually(t, "line of "+tt.line, func() error {
			b, err := os.ReadFile(path)
			if err == nil && len(b) == len(before) {
				err = errors.New("none")
			}
			line = strings.TrimSuffix(string(b[len(before):]), "\n")
			return err
		})
		m := combinedLine.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("%q isn't in the combined format", line)
			continue
		}
		if m[3] != tt.line || m[4] != tt.status || !regexp.MustCompile("^("+tt.size+")$").MatchString(m[5]) || m[6] != tt.referer || m[7] != tt.agent {
			t.Errorf("%q, want %+v", m[1:], tt)
		}
		_ = c.Close()
	}
	g.configure(t, fmt.Sprintf("access_log {\n output = %q\n fields = [\"status\", \"response.Content-Length\", \"header.X-Tenant\", \"path\", \"tls_version\"]\n}\n", path)+routes)
	g.signal(syscall.SIGHUP)
	eventually(t, "reload", func() error {
		if g.status(t).Config.Reloads == 0 {
			return errors.New("none")
		}
		return nil
	})
	req, err := http.NewRequest("GET", "https://one.test/json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Tenant", "a\"b")
	resp, err := g.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	eventually(t, "json", func() error {
		b, err := os.ReadFile(path)
		if err == nil && !strings.HasSuffix(string(b), `{"status":200,"response.Content-Length":"5","header.X-Tenant":"a\"b","path":"/json","tls_version":"TLS 1.3"}`+"\n") {
			err = fmt.Errorf("%s", b)
		}
		return err
	})
	if b, _ := os.ReadFile(path); strings.Contains(string(b), "s3cret") {
		t.Errorf("a secret is in the log:\n%s", b)
	}
}

// metricNames are those of a scrape.
func metricNames(text string) map[string]bool {
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names[name] = true
		}
	}
	return names
}

// TestMetricsShown: what a gateway with much to tell shows is documented, and the
// labels have no value that a client chose.
func TestMetricsShown(t *testing.T) {
	real(t)
	a := newAgent(t)
	b := twin(t, http.HandlerFunc(mirror))
	g := newGateway(t, accessLog+"audit_log {}\n"+consulBlock(a)+b+`
route "much" {
  hosts   = ["much.test"]
  service = "one"
  cache { default_ttl = "1m" }
  compress {}
  waf { mode = "detect" }
  ban {}
  limits { requests = 10 }
  rate_limit { rate = "1/h" }
  quota { limit = "100/day" }
}
`)
	g.start(t)
	c := g.client(true)
	for _, url := range []string{"https://much.test/?a=b%27%20or%201=1--", "https://much.test/x-client-chose", "https://one.test/x-client-chose", "https://nobody.test/"} {
		resp, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	text, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "packaging/doc/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for name := range metricNames(text) {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		if n++; !strings.Contains(string(doc), "| `"+name+"` |") {
			t.Errorf("%s isn't in metrics.md", name)
		}
	}
	if n < 50 {
		t.Errorf("only %d metrics", n)
	}
	if strings.Contains(text, "client-chose") || strings.Contains(text, "nobody.test") {
		t.Error("a client's words are in the metrics")
	}
	for _, want := range []string{"process_open_fds ", "process_start_time_seconds ", "go_goroutines ", "go_memory_classes_total_bytes ", "sidegate_build_info{"} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
}
