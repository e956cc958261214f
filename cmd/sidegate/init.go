package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/setup"
)

// unitUser is whom the unit runs the gateway as.
const unitUser = "sidegate"

// beginning is what `sidegate init` was told.
type beginning struct {
	setup.Answers
	services    []string
	acme, plain bool
	dir         string
	force       bool
}

func initCommand() *cobra.Command {
	b := &beginning{}
	c := &cobra.Command{
		Use:   "init",
		Short: "Write a first configuration, from flags or from a few questions",
		Long: `Write a first configuration: small, with comments, checked before it is written.
Without flags, on a terminal, it asks. Nothing that exists is replaced, unless with
-force, which keeps the old file as sidegate.hcl.old.

Several services get one host each, if there are as many, else /NAME/ on all hosts.`,
		Example: `  sidegate init
  sidegate init -service orders=10.0.0.7:8080,10.0.0.8:8080 -host api.example.com -acme-email ops@example.com
  sidegate init -consul 127.0.0.1:8500 -host '*.example.com' -acme
  sidegate init -service hello=127.0.0.1:9000 -dir ./gateway -listen 127.0.0.1:8443`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return b.run(c) },
	}
	f := c.Flags()
	f.StringArrayVar(&b.services, "service", nil, "a service, `NAME=HOST:PORT,…`, or NAME alone with -consul; may be repeated")
	f.StringSliceVar(&b.Hosts, "host", nil, "`hosts` of the routes or, with -consul and no -service, those that registrations may claim (default localhost)")
	f.StringVar(&b.Consul, "consul", "", "`address` of the Consul agent to ask for services")
	f.StringVar(&b.ConsulToken, "consul-token-file", "", "`file` with the token for it")
	f.BoolVar(&b.acme, "acme", false, "get certificates from Let's Encrypt, whose terms you agree to by that")
	f.StringVar(&b.Email, "acme-email", "", "-acme, and the `address` that the authority writes to")
	f.StringVar(&b.Directory, "acme-directory", "", "-acme, from another authority: the `URL` of its directory")
	f.StringVar(&b.CAFile, "acme-ca-file", "", "`file` with the root that certifies -acme-directory, if it is a private one")
	f.StringVar(&b.CertFile, "cert-file", "", "`file` of a certificate chain, PEM")
	f.StringVar(&b.KeyFile, "key-file", "", "`file` of its key, PEM")
	f.BoolVar(&b.plain, "plain", false, "no TLS")
	f.StringVar(&b.Listen, "listen", "", "`address` to listen on (default :443, or :80 with -plain)")
	f.StringVar(&b.Redirect, "redirect", "", "`address` to redirect to https from, or none (default :80 beside :443)")
	f.StringVar(&b.Admin, "admin", "127.0.0.1:9901", "`address` of the admin server; other than on loopback, a token is made for it")
	f.StringVar(&b.StateDir, "state-dir", "", "`folder` for certificates and state (default /var/lib/sidegate, or state in -dir)")
	f.StringVar(&b.dir, "dir", defaultConfig, "`folder` to write to")
	f.BoolVar(&b.force, "force", false, "replace a configuration that exists")
	return c
}

func (b *beginning) run(c *cobra.Command) error {
	if err := b.answer(c); err != nil {
		return err
	}
	dir, err := filepath.Abs(b.dir)
	if err != nil {
		return err
	}
	unit := dir == filepath.Clean(defaultConfig)
	if !unit && b.StateDir == "" {
		b.StateDir = filepath.Join(dir, "state")
	}
	if err := b.Complete(); err != nil {
		return err
	}
	files, err := b.Files(dir)
	if err != nil {
		return err
	}
	var said bytes.Buffer // warnings, of a file that has another name by now
	target := setup.Target{Dir: dir, Force: b.force, Owner: owner(unit), Validate: func(path string) error {
		_, err := app.Validate(app.Options{Config: path, Version: version, Stderr: &said})
		var text *app.ConfigError
		if errors.As(err, &text) { // which names a file that goes again
			return &app.ConfigError{Text: strings.ReplaceAll(text.Text, filepath.Dir(path)+"/", "")}
		}
		return err
	}}
	if err := target.Write(files); err != nil {
		return reported(c, err)
	}
	if _, err := io.Copy(c.ErrOrStderr(), &said); err != nil {
		return err
	}
	return b.say(c.OutOrStdout(), dir, unit, files)
}

// answer has the questions answered, by flags or by a person.
func (b *beginning) answer(c *cobra.Command) error {
	told := false
	for _, name := range []string{"service", "host", "consul", "acme", "acme-email", "cert-file", "plain", "listen"} {
		told = told || c.Flags().Changed(name)
	}
	if !told {
		if !interactive(c.InOrStdin()) {
			return errors.New("nobody to ask: say with flags what to route to, for example -service hello=127.0.0.1:8080; see sidegate init -help")
		}
		return b.ask(c)
	}
	for _, text := range b.services {
		s, err := setup.ParseService(text)
		if err != nil {
			return err
		}
		b.Services = append(b.Services, s)
	}
	acme := b.acme || b.Email != "" || b.Directory != ""
	files := b.CertFile != "" || b.KeyFile != ""
	switch {
	case acme && files, acme && b.plain, files && b.plain:
		return errors.New("certificates come by ACME (-acme…), from files (-cert-file, -key-file), or not at all (-plain): choose one")
	case acme:
		b.TLS = setup.ACME
	case files:
		b.TLS = setup.Files
	case b.plain:
		b.TLS = setup.Plain
	}
	if b.CAFile != "" && b.Directory == "" {
		return errors.New("-acme-ca-file is of no use without -acme-directory")
	}
	if b.ConsulToken != "" && b.Consul == "" {
		return errors.New("-consul-token-file is of no use without -consul")
	}
	return nil
}

// ask has a person answer. Whoever is asked may end it by Ctrl-C, which the reading
// of a line doesn't heed; the process ends then, and the goroutine with it.
func (b *beginning) ask(c *cobra.Command) error {
	done := make(chan error, 1)
	go func() { done <- setup.Ask(c.InOrStdin(), c.OutOrStdout(), &b.Answers) }()
	select {
	case err := <-done:
		return err
	case <-c.Context().Done():
		fmt.Fprintln(c.OutOrStdout())
		return errors.New("interrupted; nothing was written")
	}
}

func (b *beginning) say(out io.Writer, dir string, unit bool, files []setup.File) error {
	var t bytes.Buffer
	for _, f := range files {
		fmt.Fprintf(&t, "wrote %s", filepath.Join(dir, f.Name))
		if f.What != "" {
			fmt.Fprintf(&t, " (%04o: %s)", f.Mode, f.What)
		}
		fmt.Fprintln(&t)
	}
	fmt.Fprintln(&t, "\nnext:")
	for _, s := range b.Next(dir, unit) {
		fmt.Fprintf(&t, "  # %s\n  %s\n", s.Why, s.Command)
	}
	_, err := out.Write(t.Bytes())
	return err
}

// owner is who reads files with secrets: with the unit, its user, if root writes
// them.
func owner(unit bool) *[2]int {
	if !unit || os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(unitUser)
	if err != nil {
		return nil // installed without a package
	}
	uid, bad := strconv.Atoi(u.Uid)
	gid, err := strconv.Atoi(u.Gid)
	if bad != nil || err != nil {
		return nil
	}
	return &[2]int{uid, gid}
}

// interactive reports whether a person may answer there.
func interactive(in io.Reader) bool {
	f, ok := in.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
