package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

func reloadCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the running gateway load its configuration again, and wait until it is in force",
		Long: `Have the running gateway, or sidecar, load its configuration again, and wait until it is
in force. It is all of it or, when there is an error in it, nothing: then the command says
what is wrong, and ends with 1. SIGHUP does the same without an answer.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var done struct{ Reloaded bool }
			err := call(c.Context(), http.MethodPost, socketPath(path), "/api/reload", &done)
			switch {
			case errors.Is(err, errNotRunning):
				return err
			case err != nil:
				return fmt.Errorf("the configuration isn't in force, and the one before goes on: %s", strings.TrimSpace("\n"+err.Error()))
			}
			return nil
		},
	}
	configFlag(c, &path)
	return c
}
