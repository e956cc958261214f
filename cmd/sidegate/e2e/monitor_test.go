package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// packaged is a file of packaging/.
func packaged(t *testing.T, path string) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "packaging", path)
}

// TestAlertRules: Prometheus's own tool takes the rules, and they fire as they say.
func TestAlertRules(t *testing.T) {
	real(t)
	for _, args := range [][]string{{"check", "rules", packaged(t, "prometheus/alerts.yaml")}, {"test", "rules", packaged(t, "prometheus/alerts_test.yaml")}} {
		if out, err := exec.Command(tool(t, "promtool"), args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// TestDashboardQueries: a real Prometheus scrapes a gateway, and answers each query of
// the dashboard.
func TestDashboardQueries(t *testing.T) {
	real(t)
	g := newGateway(t, accessLog+twin(t, hello())).start(t)
	check := exec.Command(tool(t, "promtool"), "check", "metrics")
	text, err := g.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	dir, port := t.TempDir(), ports(t, 1)[0]
	conf := write(t, filepath.Join(dir, "prometheus.yml"), fmt.Sprintf(`
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [%q]
scrape_configs:
  - job_name: sidegate
    static_configs: [{ targets: ["127.0.0.1:%d"] }]
`, packaged(t, "prometheus/alerts.yaml"), g.admin))
	start(t, tool(t, "prometheus"), "--config.file="+conf, "--storage.tsdb.path="+filepath.Join(dir, "data"), fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	stop := g.load(t, 1)
	defer stop()
	query := func(expr string) (int, error) {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/query?query=%s", port, url.QueryEscape(expr)))
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		var answer struct {
			Status, Error string
			Data          struct{ Result []any }
		}
		if err == nil {
			err = json.Unmarshal(b, &answer)
		}
		if err == nil && answer.Status != "success" {
			err = errors.New(answer.Error)
		}
		return len(answer.Data.Result), err
	}
	eventually(t, "scrapes", func() error {
		n, err := query(`rate(sidegate_requests_total{route="one"}[1m]) > 0`)
		if err == nil && n == 0 {
			err = errors.New("none")
		}
		return err
	})
	b, err := os.ReadFile(packaged(t, "grafana/sidegate.json"))
	if err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$instance", ".*", "$route", ".*", "$service", ".*", "$__rate_interval", "1m")
	exprs, full := regexp.MustCompile(`"expr": (".*")`).FindAllSubmatch(b, -1), 0
	for _, m := range exprs {
		var expr string
		if err := json.Unmarshal(m[1], &expr); err != nil {
			t.Fatal(err)
		}
		n, err := query(variables.Replace(expr))
		if err != nil {
			t.Errorf("%s: %v", expr, err)
		}
		if n > 0 {
			full++
		}
	}
	if len(exprs) < 40 || full < 20 { // the rest is of what this gateway doesn't do
		t.Errorf("%d of %d queries have an answer", full, len(exprs))
	}
}

// TestTraceRealCollector: OpenTelemetry's own collector takes what is sent.
func TestTraceRealCollector(t *testing.T) {
	real(t)
	dir, port := t.TempDir(), ports(t, 1)[0]
	conf := write(t, filepath.Join(dir, "otelcol.yaml"), fmt.Sprintf(`
receivers:
  otlp: { protocols: { http: { endpoint: "127.0.0.1:%d" } } }
exporters:
  debug: { verbosity: detailed }
service:
  telemetry: { metrics: { level: none } }
  pipelines:
    traces: { receivers: [otlp], exporters: [debug] }
`, port))
	c := start(t, tool(t, "otelcol"), "--config", conf)
	eventually(t, "collector", func() error { return dial(port) })
	g := newGateway(t, accessLog+fmt.Sprintf("tracing {\n endpoint = \"http://127.0.0.1:%d\"\n service_name = \"edge\"\n sample = 1\n}\n", port)+twin(t, hello())).start(t)
	if _, err := fetch(g.client(true), "https://one.test/seen?token=s3cret"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "span at the collector", func() error {
		text := c.log.String()
		for _, want := range []string{
			`service.name: Str(edge)`, "Kind           : Server", "Kind           : Client", "http.response.status_code: Int(200)", "url.path: Str(/seen)", "sidegate.route: Str(one)",
		} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %s", want)
			}
		}
		return nil
	})
	if text := c.log.String(); strings.Contains(text, "s3cret") {
		t.Error("it got a query")
	}
	eventually(t, "count", func() error {
		m, err := g.get("/metrics")
		if err == nil && !strings.Contains(m, "sidegate_tracing_spans_total{outcome=\"sent\"} 2\n") {
			err = errors.New("not 2 sent")
		}
		return err
	})
}
