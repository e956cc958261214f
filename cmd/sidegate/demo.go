package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	"github.com/sidegate-proxy/sidegate/discovery/consul"
)

//go:embed demo.hcl
var demoConfig string

const consulDefault = "127.0.0.1:8500"

func demoCommand() *cobra.Command {
	var https, plain, adminAt string
	c := &cobra.Command{
		Use:   "demo",
		Short: "Run a gateway with two demo backends on loopback, and say how to try it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			d := &demo{out: c, https: https, plain: plain, admin: adminAt}
			return reported(c, d.run(c.Context()))
		},
	}
	c.Flags().StringVar(&https, "https", "127.0.0.1:8443", "address of the https listener")
	c.Flags().StringVar(&plain, "http", "127.0.0.1:8080", "address of the http listener")
	c.Flags().StringVar(&adminAt, "admin", "127.0.0.1:9901", "address of the admin server")
	return c
}

// demo is a gateway on an embedded configuration.
type demo struct {
	out                 *cobra.Command
	https, plain, admin string
}

func (d *demo) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "sidegate-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var backends []string
	for i := range 2 {
		address, stop, err := serveBackend(fmt.Sprintf("backend-%d", i+1))
		if err != nil {
			return err
		}
		defer stop()
		backends = append(backends, address)
	}
	agent := consulAnswers(ctx)
	if agent {
		forget, err := registerDemo(ctx, backends)
		if err != nil {
			fmt.Fprintln(d.out.ErrOrStderr(), "Consul answers, but the demo service can't be registered:", err)
		} else {
			defer forget()
		}
	}
	text := strings.NewReplacer(
		"STATE_DIR", dir, "HTTPS_ADDRESS", d.https, "HTTP_ADDRESS", d.plain, "ADMIN_ADDRESS", d.admin,
		"BACKEND_1", backends[0], "BACKEND_2", backends[1],
	).Replace(demoConfig)
	if agent {
		text += "\nconsul {\n  address = \"" + consulDefault + "\"\n  expose { hosts = [\"*.localhost\"] }\n}\n"
	}
	path := filepath.Join(dir, "sidegate.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	a, err := app.New(app.Options{Config: path, Version: version, Stderr: d.out.ErrOrStderr(), Ready: func() { d.say(dir, path, agent) }})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// say tells how to try it.
func (d *demo) say(dir, path string, agent bool) {
	_, port, _ := net.SplitHostPort(d.https) // Run has bound it
	root := filepath.Join(dir, "ca", "root.pem")
	p := func(format string, args ...any) { fmt.Fprintf(d.out.OutOrStdout(), format+"\n", args...) }
	p("")
	p("sidegate %s runs. Two demo backends answer behind it; Ctrl-C ends all.", version)
	p("")
	p("  gateway        https://localhost:%s/   (http://%s/ redirects to it)", port, d.plain)
	p("  dashboard      http://%s/", d.admin)
	p("  metrics        http://%s/metrics", d.admin)
	p("  configuration  %s   (edit it: it is loaded again)", path)
	p("")
	p("Try it:")
	p("  curl --cacert %s https://localhost:%s/hello", root, port)
	p("  curl --cacert %s --http2 -i https://localhost:%s/respond", root, port)
	p("  curl http://%s/api/status", d.admin)
	p("  bin/sidegate explain -config %s https://localhost:%s/hello", path, port)
	if agent {
		p("  curl --cacert %s https://demo.localhost:%s/     (the service that registered itself in Consul)", root, port)
	}
	p("")
}

// serveBackend is a demo service: it says who it is and what it got.
func serveBackend(name string) (address string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "%s: %s %s\nforwarded for %s over %s, host %s\n", name, r.Method, r.URL.Path,
			r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Forwarded-Proto"), r.Host)
	})}
	done := make(chan struct{})
	go func() { // ends with Close
		defer close(done)
		_ = s.Serve(l) // always http.ErrServerClosed
	}()
	return l.Addr().String(), func() { _ = s.Close(); <-done }, nil
}

// consulAnswers reports whether an agent is on its usual port.
func consulAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+consulDefault+"/v1/status/leader", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// registerDemo registers the backends as a service that routes itself.
func registerDemo(ctx context.Context, backends []string) (forget func(), err error) {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	client, err := consul.New(consul.Config{Address: consulDefault}, consul.Deps{Log: quiet})
	if err != nil {
		return nil, err
	}
	var ids []string
	forget = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		for _, id := range ids {
			_ = client.Deregister(ctx, id) // the check fails soon anyway
		}
	}
	for i, b := range backends {
		host, port, err := net.SplitHostPort(b)
		n, bad := strconv.Atoi(port)
		if err == nil {
			err = bad
		}
		if err != nil {
			return nil, err
		}
		r := consul.Registration{
			ID: fmt.Sprintf("sidegate-demo-%d", i+1), Name: "sidegate-demo", Address: host, Port: n,
			Tags: []string{"sidegate.host=demo.localhost"}, CheckTCP: b, Interval: 2 * time.Second,
		}
		if err := client.Register(ctx, r); err != nil {
			forget()
			return nil, err
		}
		ids = append(ids, r.ID)
	}
	return forget, nil
}
