package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

func caCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "ca",
		Short: "Show, trust or forget the local certificate authority; make and use one for a fleet",
		Long: `The local authority certifies localhost, addresses and private names (*.internal, *.test). It is made
at the gateway's first start, in state_dir: show, trust and untrust are about that one.

init, issue and inspect are about certificates that the services of a fleet show to each other.`,
	}
	local := func(c *cobra.Command) *cobra.Command {
		c.Flags().StringVar(&path, "config", defaultConfig, "configuration file, or folder of *.hcl files")
		return c
	}
	c.AddCommand(caInitCommand(), caIssueCommand(), caInspectCommand())
	c.AddCommand(
		local(&cobra.Command{
			Use: "show", Short: "Print the authority's certificate and where it is", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				pem, file, err := edgetls.LocalRoot(app.StateDir(path))
				if err != nil {
					return err
				}
				fmt.Fprintf(c.ErrOrStderr(), "%s\n", file)
				_, err = c.OutOrStdout().Write(pem)
				return err
			},
		}),
		local(&cobra.Command{
			Use: "trust", Short: "Let this machine trust the authority", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error {
				if err := edgetls.TrustLocal(app.StateDir(path)); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.OutOrStdout(), "trusted; browsers that run may need a restart")
				return err
			},
		}),
		local(&cobra.Command{
			Use: "untrust", Short: "Undo trust", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return edgetls.UntrustLocal(app.StateDir(path)) },
		}),
	)
	return c
}
