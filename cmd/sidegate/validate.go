package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

func validateCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "validate",
		Short: "Check the configuration and change nothing",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			sum, err := app.Validate(app.Options{Config: path, Version: version, Stderr: c.ErrOrStderr()})
			if err != nil {
				return reported(c, err)
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "ok: "+sum)
			return err
		},
	}
	configFlag(c, &path)
	return c
}

// reported prints an error that has several lines of its own, as diagnostics
// do, and leaves the others to main.
func reported(c *cobra.Command, err error) error {
	var d *app.ConfigError
	if errors.As(err, &d) {
		fmt.Fprint(c.ErrOrStderr(), d.Error())
		return errReported
	}
	return err
}
