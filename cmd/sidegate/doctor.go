package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/doctor"
)

// errUnwell ends with 1 after findings that were printed.
var errUnwell = fmt.Errorf("%w: something fails", errReported)

func doctorCommand() *cobra.Command {
	var path, who string
	var asJSON bool
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps the gateway from working here, and say what to do",
		Long: `Look for what keeps the gateway from working on this machine: ports, permissions,
DNS, Consul and its token, ACME, Redis, certificates, the clock, limits of files,
memory and disk. Only what the configuration uses is looked at, and nothing is
changed. It ends with 1 if something fails; what is only warned of leaves 0.

Run it as root, or as the gateway's user, to see all. While no gateway runs, it
listens on free ports for a moment.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if timeout < 100*time.Millisecond || timeout > 5*time.Minute {
				return usageError{errors.New("-timeout: from 100ms to 5m")}
			}
			unit := filepath.Clean(path) == filepath.Clean(defaultConfig)
			opt := doctor.Options{Options: app.Options{Config: path, Version: version}, Unit: unit, Timeout: timeout, User: who}
			if who == "" && unit && os.Geteuid() == 0 {
				if _, err := user.Lookup(unitUser); err == nil {
					opt.User = unitUser
				}
			}
			var s admin.Status
			if err := ask(c.Context(), socketPath(path), "/api/status", &s); err == nil {
				opt.Running = &s
			}
			found := doctor.Examine(c.Context(), opt)
			if asJSON {
				if err := printJSON(c.OutOrStdout(), found); err != nil {
					return err
				}
				return verdict(found)
			}
			if err := printFindings(c.OutOrStdout(), found); err != nil {
				return err
			}
			return verdict(found)
		},
	}
	configFlag(c, &path)
	c.PreRunE = nil // a file that isn't there is a finding
	c.Flags().StringVar(&who, "user", "", "the user that the gateway runs as (default sidegate, for root and the packages' configuration; else who runs this)")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Second, "how long each check may take")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func verdict(found []doctor.Finding) error {
	for _, f := range found {
		if f.Level == doctor.Fail {
			return errUnwell
		}
	}
	return nil
}

func printFindings(out io.Writer, found []doctor.Finding) error {
	count := map[doctor.Level]int{}
	for _, f := range found {
		count[f.Level]++
		if _, err := fmt.Fprintf(out, "%-4s  %-13s  %s\n", f.Level, f.Check, f.Text); err != nil {
			return err
		}
		if f.Advice != "" {
			if _, err := fmt.Fprintf(out, "%21s→ %s\n", "", f.Advice); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(out, "\n%d ok, %d to look at, %d failed\n", count[doctor.OK], count[doctor.Warn], count[doctor.Fail])
	return err
}
