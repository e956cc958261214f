package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
)

// resident are the bytes that a process has in memory, and those of them that are
// no file's.
func (p *process) resident() (all, anonymous int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch n, _ := strconv.Atoi(words[1]); words[0] {
		case "VmRSS:":
			all = n << 10
		case "RssAnon:":
			anonymous = n << 10
		}
	}
	return all, anonymous, nil
}

// There is a sidecar beside every service: at rest it has 20 MiB in memory at most,
// of a program of 40 MB, and 8 MiB that are its own.
func TestWeightAtRest(t *testing.T) {
	real(t)
	app := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer app.Close()
	a := newAgent(t)
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := write(t, dir+"/orders.hcl", fmt.Sprintf(`state_dir = %q
consul { address = "http://127.0.0.1:%d" }
sidecar "orders" {
  app    = %q
  listen = "127.0.0.1:0"
}
`, dir, a.port, strings.TrimPrefix(app.URL, "http://")))
	p := start(t, bin, "sidecar", "-config", config)
	eventually(t, "the service is registered and healthy", func() error {
		text, err := a.do(http.MethodGet, "/v1/health/service/orders?passing=1", nil)
		if err == nil && !strings.Contains(text, `"orders"`) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
	eventually(t, "the sidecar is light", func() error {
		all, anonymous, err := p.resident()
		if err == nil && (all >= 20<<20 || anonymous >= 8<<20) {
			err = fmt.Errorf("%d bytes are resident, %d of them its own; want less than 20 MiB and 8 MiB", all, anonymous)
		}
		return err
	})
}
