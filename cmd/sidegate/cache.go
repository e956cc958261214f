package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
)

func cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Show what the running gateway answers from memory, and make it forget",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(cacheStatsCommand(), cachePurgeCommand())
	return c
}

func cacheStatsCommand() *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use:   "stats",
		Short: "List the routes with a cache, and how their requests were answered since the start",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var s admin.CacheStatus
			if err := ask(c.Context(), socketPath(path), "/api/cache", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return printCache(c.OutOrStdout(), s)
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printCache(out io.Writer, s admin.CacheStatus) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "ROUTE\tHITS\tSTALE\tCOLLAPSED\tMISSES\tVALIDATED\tPASSED\tSTORED")
	for _, r := range s.Routes {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", r.Route, r.Hits, r.Stale, r.Collapsed, r.Misses, r.Validated, r.Passed, r.Stored)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%d answers, %d bytes of memory\n", s.Items, s.Bytes); err != nil || s.Disk.Most == 0 {
		return err
	}
	text := fmt.Sprintf("%d of them on disk, %s of %s", s.Disk.Files, size(s.Disk.Used), size(s.Disk.Most))
	switch {
	case s.Disk.Problem != "":
		text += ": " + s.Disk.Problem
	case s.Disk.Reading:
		text += ", and what was there before the start is being read"
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

func cachePurgeCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "purge URL",
		Short: "Forget the answers of a URL, or of all that begin so: https://api.example.com/orders/*",
		Long:  "Forgets all answers of a URL, of every route, caller and variant, on this node. With * at the end, of all URLs that begin so; '*' alone is everything.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var answer struct{ Purged int }
			q := url.Values{"url": {args[0]}}
			if err := call(c.Context(), http.MethodDelete, socketPath(path), "/api/cache?"+q.Encode(), &answer); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%d answers are forgotten\n", answer.Purged)
			return err
		},
	}
	configFlag(c, &path)
	return c
}
