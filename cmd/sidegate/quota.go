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

	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
)

func quotaCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "quota",
		Short: "Show and change what clients have used of their quotas",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(completes(quotaListCommand(), first(quotaClients)), completes(quotaSetCommand(), quotaWords))
	return c
}

func quotaListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list [CONSUMER]", Short: "List what was used in the periods that go on, by all clients or one", Args: cobra.MaximumNArgs(1)}
	return listCommand(c, func(ctx context.Context, socket string, args []string) (list []quota.Use, err error) {
		q := url.Values{}
		if len(args) > 0 {
			q.Set("client", args[0])
		}
		err = ask(ctx, socket, "/api/quotas?"+q.Encode(), &list)
		return list, err
	}, printQuotas)
}

func printQuotas(out io.Writer, list []quota.Use) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "nothing was used of any quota")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "QUOTA\tCLIENT\tPERIOD\tUSED\tLIMIT\tLEFT\tUNTIL")
	for _, u := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", u.Quota, shown("client", u.Client), u.Period, u.Used, u.Limit, u.Left, u.Until.Format(time.RFC3339))
	}
	return t.Flush()
}

func quotaSetCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "set QUOTA CLIENT PERIOD USED",
		Short: "Say how much a client has used, 0 for nothing, in the words of list",
		Args:  cobra.ExactArgs(4),
		RunE: func(c *cobra.Command, args []string) error {
			var u quota.Use
			q := url.Values{"quota": {args[0]}, "client": {args[1]}, "period": {args[2]}, "used": {args[3]}}
			if err := call(c.Context(), http.MethodPost, socketPath(path), "/api/quotas?"+q.Encode(), &u); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%s has used %d of %d until %s\n", u.Client, u.Used, u.Limit, u.Until.Format(time.RFC3339))
			return err
		},
	}
	configFlag(c, &path)
	return c
}
