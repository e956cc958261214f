package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
)

func banCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ban",
		Short: "Show and change which addresses the running gateway keeps out",
		Long:  "A ban holds on every route that has a ban block. It is of one IPv4 address, or of the /64 of an IPv6 one.",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(banListCommand(), banAddCommand(), completes(banRemoveCommand(), first(bannedAddresses)))
	return c
}

func banListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list", Short: "List the bans, those that last longest first", Args: cobra.NoArgs}
	return listCommand(c, func(ctx context.Context, socket string, _ []string) (list []ban.Ban, err error) {
		err = ask(ctx, socket, "/api/bans", &list)
		return list, err
	}, printBans)
}

func printBans(out io.Writer, list []ban.Ban) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "nobody is banned")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "CLIENT\tSINCE\tUNTIL\tTIMES\tBY")
	for _, b := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", b.Client, b.Since.Local().Format(time.DateTime), b.Until.Local().Format(time.DateTime), b.Times, b.By)
	}
	return t.Flush()
}

func banAddCommand() *cobra.Command {
	var path string
	var lasts time.Duration
	c := &cobra.Command{
		Use:   "add ADDRESS",
		Short: "Ban an address",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var b ban.Ban
			q := url.Values{"address": {args[0]}, "for": {lasts.String()}}
			if err := call(c.Context(), http.MethodPost, socketPath(path), "/api/bans?"+q.Encode(), &b); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s is banned until %s\n", b.Client, b.Until.Local().Format(time.DateTime))
			return err
		},
	}
	configFlag(c, &path)
	c.Flags().DurationVar(&lasts, "for", time.Hour, "how long")
	return c
}

func banRemoveCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "remove ADDRESS",
		Short: "Lift a ban, and forget that there was one",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var answer struct{ Removed bool }
			q := url.Values{"address": {args[0]}}
			if err := call(c.Context(), http.MethodDelete, socketPath(path), "/api/bans?"+q.Encode(), &answer); err != nil {
				return err
			}
			text := args[0] + " isn't banned any more"
			if !answer.Removed {
				text = args[0] + " wasn't banned"
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), text)
			return err
		},
	}
	configFlag(c, &path)
	return c
}
