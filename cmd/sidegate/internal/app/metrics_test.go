package app

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.yaml.in/yaml/v3"
)

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the list of metrics")
	flag.Parse()
	os.Exit(m.Run())
}

// metric is one that the sources describe.
type metric struct {
	name, help string
	labels     []string
}

func (m metric) kind() string {
	switch {
	case m.name == "sidegate_request_duration_seconds":
		return "histogram"
	case strings.HasSuffix(m.name, "_total"):
		return "counter"
	default:
		return "gauge"
	}
}

// described are the metrics that this package makes: the calls of functions named
// d, each of which makes a prometheus.Desc with a prefix. Which of them a scrape
// shows depends on what a gateway does.
func described(t *testing.T) []metric {
	t.Helper()
	set := token.NewFileSet()
	paths, err := filepath.Glob("*.go")
	if err != nil || len(paths) == 0 {
		t.Fatal("no sources", err)
	}
	var list []metric
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			prefix, calls := "", []*ast.CallExpr{}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "NewDesc" {
					sum, ok := call.Args[0].(*ast.BinaryExpr)
					if !ok {
						t.Fatalf("%s: write it as d(name, help, labels...), as the others are", set.Position(call.Pos()))
					}
					prefix = literal(t, sum.X)
				}
				if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "d" {
					calls = append(calls, call)
				}
				return true
			})
			if prefix == "" {
				continue
			}
			for _, c := range calls {
				m := metric{name: prefix + literal(t, c.Args[0]), help: literal(t, c.Args[1])}
				for _, l := range c.Args[2:] {
					m.labels = append(m.labels, literal(t, l))
				}
				list = append(list, m)
			}
		}
	}
	slices.SortFunc(list, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	return list
}

func literal(t *testing.T, e ast.Expr) string {
	t.Helper()
	lit, ok := e.(*ast.BasicLit)
	if !ok {
		t.Fatalf("%T isn't a literal", e)
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dummy shows each metric once.
type dummy struct{ list []metric }

func (d dummy) Describe(chan<- *prometheus.Desc) {}

func (d dummy) Collect(ch chan<- prometheus.Metric) {
	for _, m := range d.list {
		desc, values := prometheus.NewDesc(m.name, m.help, m.labels, nil), make([]string, len(m.labels))
		switch m.kind() {
		case "histogram":
			ch <- prometheus.MustNewConstHistogram(desc, 1, 1, map[float64]uint64{1: 1}, values...)
		case "counter":
			ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, 1, values...)
		default:
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, 1, values...)
		}
	}
}

// TestMetricNames: names are as Prometheus wants them, and given once.
func TestMetricNames(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(dummy{described(t)})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if len(families) < 80 {
		t.Errorf("%d metrics found in the sources, fewer than there are", len(families))
	}
}

// bounded says what bounds the values of a label.
func bounded(label string) string {
	switch label {
	case "route", "service", "listener", "issuer", "limit", "quota", "url", "name", "mode", "meter":
		return "the configuration; series go when it has it no more"
	case "instance":
		return "the instances that discovery knows"
	case "version", "code", "kind", "state", "priority", "level", "limit_of", "outcome", "source", "protocol", "action", "origin", "result", "reason", "encoding":
		return "a fixed list"
	default:
		return ""
	}
}

const metricsPreface = `# Metrics

<!-- Made from the sources: go test ./cmd/sidegate/internal/app -run Metric -update -->

` + "`GET /metrics` of the admin server, in Prometheus's text format or, for who asks for it, OpenMetrics, with exemplars: the trace of a request that took about that long. Beside these there are `process_*` (files, memory, CPU, start) and a few `go_*`." + `

No label has values that clients choose: paths, addresses, user agents, consumers. A metric of something that isn't configured isn't there.

| metric | type | labels | |
|---|---|---|---|
`

// TestMetricsDocumented: packaging/doc/metrics.md has each of them.
func TestMetricsDocumented(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(metricsPreface)
	for _, m := range described(t) {
		labels := make([]string, len(m.labels))
		for i, l := range m.labels {
			labels[i] = "`" + l + "`"
			if bounded(l) == "" {
				t.Errorf("%s: what bounds the label %q?", m.name, l)
			}
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind(), strings.Join(labels, " "), m.help)
	}
	const path = "../../../../packaging/doc/metrics.md"
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || !bytes.Equal(want, b.Bytes()) {
		t.Errorf("%s is out of date (%v): run go test with -update", path, err)
	}
}

// metricName is one of ours in an expression; what is recorded has a colon before it.
var metricName = regexp.MustCompile(`(^|[^:\w])((?:sidegate|process|go)_\w+)`)

// checkExpression checks that the metrics of an expression are those of a gateway.
func checkExpression(t *testing.T, known map[string]bool, where, expr string) {
	t.Helper()
	found := metricName.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 && !strings.HasPrefix(expr, "up{") && !strings.Contains(expr, ":sidegate_") {
		t.Errorf("%s: %q names no metric", where, expr)
	}
	for _, m := range found {
		name := m[2]
		if base, ok := strings.CutSuffix(name, "_bucket"); ok {
			name = base
		}
		if !known[name] {
			t.Errorf("%s: there is no metric %s", where, m[2])
		}
	}
}

func knownMetrics(t *testing.T) map[string]bool {
	known := map[string]bool{}
	for _, m := range described(t) {
		known[m.name] = true
	}
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		known[f.GetName()] = true
	}
	return known
}

// TestMetricAlerts: the rules name metrics that there are, and each alert says what to
// do; promtool tests them in cmd/sidegate/e2e.
func TestMetricAlerts(t *testing.T) {
	text, err := os.ReadFile("../../../../packaging/prometheus/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Record, Alert, Expr, For string
				Labels, Annotations      map[string]string
			}
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	known, recorded, alerts := knownMetrics(t), map[string]bool{}, 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			checkExpression(t, known, r.Record+r.Alert, r.Expr)
			if r.Record != "" {
				recorded[r.Record] = true
				continue
			}
			for _, m := range regexp.MustCompile(`\w+:sidegate_\w+:\w+`).FindAllString(r.Expr, -1) {
				if !recorded[m] {
					t.Errorf("%s: nothing records %s", r.Alert, m)
				}
			}
			alerts++
			if r.For == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || len(r.Annotations["runbook"]) < 100 {
				t.Errorf("%s lacks for, severity, summary or a runbook that helps", r.Alert)
			}
		}
	}
	if alerts < 20 {
		t.Errorf("%d alerts", alerts)
	}
}

// TestMetricDashboard: the dashboard is JSON, and what it shows there is.
func TestMetricDashboard(t *testing.T) {
	text, err := os.ReadFile("../../../../packaging/grafana/sidegate.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Title, UID string
		Panels     []struct {
			ID          int
			Type, Title string
			Targets     []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
		Annotations struct{ List []struct{ Name, Expr string } }
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	known, ids, shown := knownMetrics(t), map[int]bool{}, 0
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			shown++
			checkExpression(t, known, p.Title, target.Expr)
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			checkExpression(t, known, v.Name, v.Definition)
		}
	}
	for _, a := range d.Annotations.List {
		if a.Expr != "" {
			checkExpression(t, known, a.Name, a.Expr)
		}
	}
	if d.UID != "sidegate" || shown < 40 {
		t.Errorf("%q shows %d expressions", d.UID, shown)
	}
}
