package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
)

func keyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "key",
		Short: "Make, list, replace and revoke API keys of the running gateway's consumers",
		Long: `Make, list, replace and revoke API keys of the running gateway's consumers.

A key is shown once, when it is made; the gateway keeps its SHA-256. With a
consul block keys are kept in Consul and hold on every node, without one in
state_dir. A key is named by its id, the first digits of its SHA-256:

  printf %s "$KEY" | sha256sum | cut -c1-12`,
		Args: cobra.NoArgs,
	}
	c.AddCommand(completes(keyCreateCommand(), first(consumerNames)), completes(keyListCommand(), first(consumerNames)),
		completes(keyRotateCommand(), first(keyIDs)), completes(keyRevokeCommand(), first(keyIDs)))
	return c
}

func keyCreateCommand() *cobra.Command {
	var path, expires string
	var asJSON bool
	c := &cobra.Command{
		Use:     "create CONSUMER",
		Short:   "Make a key, and print it: on stdout the key alone",
		Example: "  sidegate key create acme\n  KEY=$(sidegate key create acme -expires 90d)",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var k admin.NewKey
			q := url.Values{"consumer": {args[0]}, "expires": {expires}}
			if err := call(c.Context(), http.MethodPost, socketPath(path), "/api/keys?"+q.Encode(), &k); err != nil {
				return err
			}
			return printNewKey(c, &k, asJSON)
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&expires, "expires", "", "when it ends: 90d, 12h, 2027-06-30 (from its beginning on, UTC) or 2027-06-30T18:00:00Z (default never)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, the key in it")
	return c
}

// printNewKey prints the key on stdout, and what else there is to say on stderr,
// so that a script gets the key alone.
func printNewKey(c *cobra.Command, k *admin.NewKey, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), k)
	}
	if _, err := fmt.Fprintln(c.OutOrStdout(), k.Secret); err != nil {
		return err
	}
	until := "without an end"
	if !k.Expires.IsZero() {
		until = "until " + shortTime(k.Expires)
	}
	fmt.Fprintf(c.ErrOrStderr(), "key %s of consumer %q, %s; it isn't shown again\n", k.ID, k.Consumer, until)
	if old := k.Replaces; old != nil {
		fmt.Fprintf(c.ErrOrStderr(), "key %s, which it replaces, works until %s\n", old.ID, shortTime(old.Expires))
	}
	return nil
}

func shortTime(t time.Time) string { return t.Local().Format(time.DateTime) }

func keyListCommand() *cobra.Command {
	c := &cobra.Command{Use: "list [CONSUMER]", Short: "List the keys, those in files included", Args: cobra.MaximumNArgs(1)}
	return listCommand(c, func(ctx context.Context, socket string, args []string) ([]admin.KeyStatus, error) {
		q := url.Values{"limit": {"1000"}}
		if len(args) > 0 {
			q.Set("consumer", args[0])
		}
		all := []admin.KeyStatus{}
		for {
			var page admin.KeyPage
			if err := ask(ctx, socket, "/api/keys?"+q.Encode(), &page); err != nil {
				return nil, err
			}
			if all = append(all, page.Keys...); page.Next == "" {
				return all, nil
			}
			q.Set("after", page.Next)
		}
	}, printKeys)
}

func printKeys(out io.Writer, list []admin.KeyStatus) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "there are no keys")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "CONSUMER\tID\tCREATED\tEXPIRES\tSTATE\tKEPT IN")
	for _, k := range list {
		state := k.State
		if !k.Revoked.IsZero() {
			state += " " + shortTime(k.Revoked)
		}
		created, expires := "-", "never"
		if !k.Created.IsZero() {
			created = shortTime(k.Created)
		}
		if !k.Expires.IsZero() {
			expires = shortTime(k.Expires)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(k.Consumer), k.ID, created, expires, state, printable(k.Origin))
	}
	return t.Flush()
}

// printable keeps control characters of names, which may be whatever somebody wrote
// into Consul, away from a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

func keyRotateCommand() *cobra.Command {
	var path, overlap, expires string
	var asJSON bool
	c := &cobra.Command{
		Use:     "rotate ID",
		Short:   "Make a key in the place of another; for a time both work",
		Long:    "Make a key in the place of another. Both work during the overlap; then the old one has expired.\nUnless told otherwise the new key lasts as long as the old one was to.",
		Example: "  sidegate key rotate 3f2a91c04b7e\n  sidegate key rotate 3f2a91c04b7e -overlap 7d -expires 90d",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var k admin.NewKey
			q := url.Values{"overlap": {overlap}, "expires": {expires}}
			if err := call(c.Context(), http.MethodPost, socketPath(path), "/api/keys/"+url.PathEscape(args[0])+"/rotate?"+q.Encode(), &k); err != nil {
				return err
			}
			return printNewKey(c, &k, asJSON)
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&overlap, "overlap", "24h", "how long both keys work: 24h, 7d; 0s: the old one ends now")
	c.Flags().StringVar(&expires, "expires", "", "when the new key ends: 90d, 12h, 2027-06-30, 2027-06-30T18:00:00Z or never (default: it lasts as long as the old one)")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, the key in it")
	return c
}

func keyRevokeCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "revoke ID",
		Short: "End a key at once, for good",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var k admin.KeyStatus
			if err := call(c.Context(), http.MethodDelete, socketPath(path), "/api/keys/"+url.PathEscape(args[0]), &k); err != nil {
				return err
			}
			if k.Note != "" {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", k.Note)
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "key %s of consumer %q is revoked\n", k.ID, k.Consumer)
			return err
		},
	}
	configFlag(c, &path)
	return c
}
