package main

import (
	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

func runCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGTERM or SIGINT, which let the requests in flight end.
SIGHUP, or a change of the files, loads the configuration again: all of it or,
when there is an error in it, nothing. SIGUSR1 opens the access log again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := app.New(app.Options{Config: path, Version: version, Stderr: c.ErrOrStderr()})
			if err != nil {
				return reported(c, err)
			}
			return reported(c, a.Run(c.Context()))
		},
	}
	configFlag(c, &path)
	return c
}
