package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
)

func handoverCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "handover",
		Short: "Have a new process of the installed version take over from the running gateway",
		Long: `Have the running gateway start its program anew, with its command line and environment
and the configuration as it is now, and pass its sockets on: no request is lost, and no
connection refused. The old process ends when its requests have, at the latest after drain.
A new process that fails to start changes nothing: the command says why, and ends with 1.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var h admin.Handover
			if err := call(c.Context(), http.MethodPost, socketPath(path), "/api/handover", &h); err != nil {
				return fmt.Errorf("no handover: %w", err)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "sidegate %s (pid %d) serves; the process before (pid %d) ends when its requests have\n", h.Version, h.PID, h.Old)
			return err
		},
	}
	configFlag(c, &path)
	return c
}
