package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

func routesCommand() *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use:   "routes",
		Short: "List the routes, most specific first",
		Long:  "List the routes in the order in which they are tried: those of the running gateway, or, when\nnone runs, those of the configuration and of what Consul says now.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var list []admin.RouteStatus
			err := ask(c.Context(), socketPath(path), "/api/routes", &list)
			if errors.Is(err, errNotRunning) {
				list, err = app.OfflineRoutes(c.Context(), app.Options{Config: path, Version: version, Stderr: c.ErrOrStderr()})
			}
			if err != nil {
				return reported(c, err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), list)
			}
			return printRoutes(c.OutOrStdout(), list)
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printRoutes(out io.Writer, list []admin.RouteStatus) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "ROUTE\tHOST\tPATH\tCONDITIONS\tTO\tPOLICIES\tFROM")
	listener := ""
	for _, r := range list {
		if r.Listener != listener {
			listener = r.Listener
			fmt.Fprintf(t, "on %s alone:\t\t\t\t\t\t\n", listener)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, cmp.Or(r.Host, "any"), cmp.Or(r.Path, "any"), cmp.Or(r.Conditions, "-"),
			r.To, cmp.Or(strings.Join(r.Policies, ","), "-"), r.Origin)
	}
	return t.Flush()
}
