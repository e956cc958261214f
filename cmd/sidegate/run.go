package main

import (
	"errors"
	"os"
	"runtime/pprof"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

func runCommand() *cobra.Command {
	var path, profile string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGTERM or SIGINT, which let the requests in flight end.
SIGHUP, or a change of the files, loads the configuration again: all of it or,
when there is an error in it, nothing. SIGUSR1 opens the access log and the audit log again, as
SIGHUP does.
SIGUSR2, or sidegate handover, starts the program anew, passes all sockets on to it
and ends once it serves and the requests in flight have ended: for a new version.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := app.New(app.Options{Config: path, Version: version, Stderr: c.ErrOrStderr(), Handover: true})
			if err != nil {
				return reported(c, err)
			}
			return reported(c, profiled(profile, func() error { return a.Run(c.Context()) }))
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&profile, "cpuprofile", "", "write a CPU profile of the whole run to this file, for go tool pprof")
	return c
}

// profiled runs f, and writes its CPU profile to path if there is one.
func profiled(path string, f func() error) error {
	if path == "" {
		return f()
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return errors.Join(err, file.Close())
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, file.Close())
}
