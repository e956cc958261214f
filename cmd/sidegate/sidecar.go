package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

// sidecarFlags are a sidecar block as flags.
type sidecarFlags struct {
	service, app, protocol, listen, address, check, proxy, stateDir string
	upstreams, tags, allow                                          []string
	ca, cert, key                                                   string
}

func sidecarCommand() *cobra.Command {
	var path string
	var f sidecarFlags
	c := &cobra.Command{
		Use:   "sidecar",
		Short: "Run the sidecar of a service: register it in Consul, guard its requests both ways",
		Long: `Run the sidecar of a service until SIGTERM or SIGINT. It registers the service in the
local Consul agent once the app takes connections, sends requests for it to the app, and
gives the app a local address for each service that it calls. At the end it takes the
service out of Consul first, and serves until everybody has seen that.

Flags make a configuration with one sidecar block, which is written into the state
folder as sidecar.hcl: for sidegate status -config, and as a start for one of your own.
With -config, sidecar blocks are read from a file, and no other flag is taken.`,
		Example: `  sidegate sidecar -service orders -app 127.0.0.1:8080 -check /healthz
  sidegate sidecar -service orders -app 127.0.0.1:8080 -upstream billing=127.0.0.1:9191
  sidegate sidecar -config /etc/sidegate/sidecars/orders.hcl`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.settle(c, &path); err != nil {
				return err
			}
			a, err := app.New(app.Options{Config: path, Version: version, Stderr: c.ErrOrStderr(), Sidecar: true, Handover: true})
			if err != nil {
				return reported(c, err)
			}
			return reported(c, a.Run(c.Context()))
		},
	}
	fl := c.Flags()
	fl.StringVar(&path, "config", "", "file, or folder, with sidecar blocks: instead of the other flags")
	fl.StringVar(&f.service, "service", "", "name of the service in Consul")
	fl.StringVar(&f.app, "app", "", "where the app listens: 127.0.0.1:8080, or unix:///path")
	fl.StringVar(&f.protocol, "protocol", "http1", "what the app speaks: http1 or h2c")
	fl.StringVar(&f.listen, "listen", ":0", "where others connect, which Consul announces; port 0 is any free one")
	fl.StringVar(&f.address, "address", "", "the address to announce (default that of -listen, else the agent's)")
	fl.StringVar(&f.check, "check", "", "path of the app that must answer 2xx, like /healthz (default: the app takes connections)")
	fl.StringArrayVar(&f.upstreams, "upstream", nil, "NAME=ADDRESS: the app calls the service NAME at that local address; repeatable")
	fl.StringVar(&f.proxy, "proxy", "", "local address of an HTTP proxy for the app, to http://NAME.service.consul")
	fl.StringArrayVar(&f.tags, "tag", nil, "tag of the registration; repeatable")
	fl.StringArrayVar(&f.allow, "allow", nil, "service whose certificate may call, with -cert (default: all of the fleet); repeatable")
	fl.StringVar(&f.ca, "ca", "", "authorities of the fleet, PEM; with -cert and -key")
	fl.StringVar(&f.cert, "cert", "", "certificate of this service, PEM: see sidegate ca")
	fl.StringVar(&f.key, "key", "", "its key, PEM")
	fl.StringVar(&f.stateDir, "state-dir", "", "folder for the state (default $STATE_DIRECTORY, else /var/lib/sidegate/sidecars/NAME)")
	return c
}

// settle makes the flags a file, unless they name one.
func (f *sidecarFlags) settle(c *cobra.Command, path *string) error {
	if *path != "" {
		if c.Flags().NFlag() > 1 {
			return usageError{errors.New("-config: the file says it all: leave the other flags out, or -config")}
		}
		if _, err := os.Stat(*path); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("there is no file %s: write it, or describe the sidecar with -service and -app", *path)
		}
		return nil
	}
	if f.service == "" || f.app == "" {
		return usageError{errors.New("say which service it is and where its app listens: -service orders -app 127.0.0.1:8080, or give a file with -config")}
	}
	if strings.ContainsAny(f.service, "/.") { // it becomes a folder
		return usageError{fmt.Errorf("-service: %q isn't the name of a service: write letters, digits, - and _", f.service)}
	}
	text, err := f.hcl()
	if err != nil {
		return usageError{err}
	}
	if err := os.MkdirAll(f.stateDir, 0o700); err != nil {
		return fmt.Errorf("%w: create it for this user, or name another folder with -state-dir", err)
	}
	*path = filepath.Join(f.stateDir, "sidecar.hcl")
	if old, err := os.ReadFile(*path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	if err := os.WriteFile(*path, text, 0o600); err != nil {
		return fmt.Errorf("%w: name another folder with -state-dir", err)
	}
	return nil
}

// hcl is the configuration that the flags describe.
func (f *sidecarFlags) hcl() ([]byte, error) {
	var err error
	if f.stateDir == "" {
		f.stateDir, _, _ = strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	}
	if f.stateDir == "" {
		f.stateDir = filepath.Join("/var/lib/sidegate/sidecars", f.service)
	}
	if f.stateDir, err = filepath.Abs(f.stateDir); err != nil {
		return nil, err
	}
	b := &bytes.Buffer{}
	fmt.Fprintf(b, "# Made by sidegate sidecar from its flags, anew at each start.\nstate_dir = %s\n", quoted(f.stateDir))
	if err := f.identity(b); err != nil {
		return nil, err
	}
	fmt.Fprintf(b, "sidecar %s {\n  app      = %s\n  protocol = %s\n  listen   = %s\n", quoted(f.service), quoted(f.app), quoted(f.protocol), quoted(f.listen))
	text := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "  %s = %s\n", name, quoted(value))
		}
	}
	list := func(name string, values []string) {
		for i, v := range values {
			values[i] = quoted(v)
		}
		if len(values) > 0 {
			fmt.Fprintf(b, "  %s = [%s]\n", name, strings.Join(values, ", "))
		}
	}
	text("address", f.address)
	text("proxy", f.proxy)
	list("tags", f.tags)
	list("allow", f.allow)
	if f.check != "" {
		fmt.Fprintf(b, "  check {\n    http = %s\n  }\n", quoted(f.check))
	}
	for _, u := range f.upstreams {
		name, address, ok := strings.Cut(u, "=")
		if !ok || name == "" || address == "" {
			return nil, fmt.Errorf("-upstream: %q isn't NAME=ADDRESS, like billing=127.0.0.1:9191", u)
		}
		fmt.Fprintf(b, "  upstream %s {\n    listen = %s\n  }\n", quoted(name), quoted(address))
	}
	b.WriteString("}\n")
	return b.Bytes(), nil
}

// identity writes who this is in the fleet, if the flags say so.
func (f *sidecarFlags) identity(b *bytes.Buffer) error {
	files := []struct {
		name string
		path *string
	}{{"ca", &f.ca}, {"cert", &f.cert}, {"key", &f.key}}
	given := 0
	for _, file := range files {
		if *file.path == "" {
			continue
		}
		given++
		var err error
		if *file.path, err = filepath.Abs(*file.path); err != nil {
			return err
		}
	}
	switch given {
	case 0:
		return nil
	case len(files):
	default:
		return errors.New("-ca, -cert and -key go together: sidegate ca issue makes all three")
	}
	b.WriteString("identity {\n")
	for _, file := range files {
		fmt.Fprintf(b, "  %s_file = %s\n", file.name, quoted(*file.path))
	}
	b.WriteString("}\n")
	return nil
}

// quoted is a string of HCL that means s.
func quoted(s string) string {
	s = fmt.Sprintf("%q", s)
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(s)
}
