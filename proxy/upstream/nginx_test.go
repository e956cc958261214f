package upstream

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// tool finds a program that tests use: in SIDEGATE_TOOLS, on PATH, or where
// make tools puts it.
func tool(t testing.TB, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("short")
	}
	dirs := []string{os.Getenv("SIDEGATE_TOOLS"), "/usr/sbin"}
	if path, err := exec.LookPath(name); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for dir, _ := os.Getwd(); dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			dirs = append(dirs, filepath.Join(dir, ".cache", "tools"))
			break
		}
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); dir != "" && err == nil && st.Mode()&0o111 != 0 {
			return path
		}
	}
	t.Fatalf("%s is missing: run make tools", name)
	return ""
}

// nginx runs a real nginx that answers 200 with its address.
func nginx(t testing.TB) (addr string, kill func()) {
	t.Helper()
	bin := tool(t, "nginx")
	addr = deadAddr(t)
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 512; }
http {
  access_log off; keepalive_requests 100;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen %[2]s; location / { return 200 "%[2]s"; } }
}
`, dir, addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-c", conf, "-e", filepath.Join(dir, "start.log"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	kill = func() {
		once.Do(func() {
			cmd.Process.Kill()
			cmd.Wait() // killed: the error says so
		})
	}
	t.Cleanup(kill)
	until(t, "nginx listens", func() bool {
		nc, err := net.Dial("tcp", addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
	return addr, kill
}

// TestKillNginxUnderLoad: nginx ends connections after 100 requests, one of
// three is killed, and no GET fails.
func TestKillNginxUnderLoad(t *testing.T) {
	addr1, _ := nginx(t)
	addr2, kill := nginx(t)
	addr3, _ := nginx(t)
	for _, balance := range []string{"ewma", "round_robin"} {
		t.Run(balance, func(t *testing.T) {
			b := newBench(t, &Config{Balance: balance}, Deps{}, at(addr1), at(addr2), at(addr3))
			var sent, failed atomic.Int64
			stop := make(chan struct{})
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					x := request("GET", "/")
					for {
						select {
						case <-stop:
							return
						default:
						}
						renew(x, "GET", "/")
						if a := b.send(x); a.fault != nil || a.status != 200 {
							failed.Add(1)
							t.Errorf("answer = %+v %v", a, a.fault)
						}
						sent.Add(1)
					}
				})
			}
			until(t, "some requests", func() bool { return sent.Load() > 1500 })
			kill()
			at := sent.Load()
			until(t, "more requests", func() bool { return sent.Load() > at+1500 })
			close(stop)
			wg.Wait()
			if n := failed.Load(); n != 0 {
				t.Errorf("%d of %d failed", n, sent.Load())
			}
		})
	}
}
