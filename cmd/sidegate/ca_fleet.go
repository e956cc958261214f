package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	edgetls "github.com/sidegate-proxy/sidegate/tls"
)

// day24 is a day of a certificate's life.
const day24 = 24 * time.Hour

func caInitCommand() *cobra.Command {
	var dir, domain string
	c := &cobra.Command{
		Use:   "init",
		Short: "Make an authority for the certificates of a fleet's services",
		Long: `Make an authority that signs certificates for the services of a fleet, which show them
to each other (mTLS): ca.pem, which every sidecar needs as ca_file, and ca.key, which
stays where certificates are issued. It may sign names of its trust domain alone, and
lasts ten years. An authority that is there is never overwritten.`,
		Example: "  sidegate ca init -trust-domain fleet.example -dir /root/fleet",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if domain == "" || dir == "" {
				return usageError{errors.New("say for which trust domain and where: -trust-domain fleet.example -dir DIR")}
			}
			a, err := edgetls.InitFleetCA(dir, domain, time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: the authority of spiffe://%s, until %s; keep its key, ca.key, to yourself\n", a.RootFile(), domain, date(a.Root().NotAfter))
			return err
		},
	}
	c.Flags().StringVar(&domain, "trust-domain", "", "what all names of the fleet begin with, such as fleet.example")
	c.Flags().StringVar(&dir, "dir", "", "folder for the authority; it is made")
	return c
}

func caIssueCommand() *cobra.Command {
	var dir, service, out string
	var days int
	var renew bool
	c := &cobra.Command{
		Use:   "issue",
		Short: "Issue a service's certificate and key",
		Long: `Issue a certificate and key for a service, SERVICE.pem and SERVICE.key, by the
authority that sidegate ca init has made. The certificate's name is
spiffe://TRUST-DOMAIN/svc/SERVICE, whatever hosts the service runs on. The key is
readable by its owner alone.

A pair that is there stays, unless -renew says to replace it: by a new key, too, with the
owner and mode that the files had. Whatever uses it takes that over by itself.`,
		Example: `  sidegate ca issue -dir /root/fleet -service orders -out /etc/sidegate/fleet
  sidegate ca issue -dir /root/fleet -service orders -out /etc/sidegate/fleet -renew`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case dir == "" || service == "":
				return usageError{errors.New("say where the authority is and for which service: -dir DIR -service orders")}
			case days < 1 || days > 3650:
				return usageError{errors.New("-days: write 1 to 3650")}
			}
			if out == "" {
				out = dir
			}
			a, err := edgetls.OpenFleetCA(dir)
			if err != nil {
				return err
			}
			cert, file, err := a.Issue(out, service, time.Duration(days)*day24, time.Now(), renew)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %s, until %s\n", file, cert.URIs[0], date(cert.NotAfter))
			return err
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "folder of the authority")
	c.Flags().StringVar(&service, "service", "", "name of the service in Consul")
	c.Flags().IntVar(&days, "days", 90, "how long the certificate is good")
	c.Flags().StringVar(&out, "out", "", "folder for the pair (default the authority's)")
	c.Flags().BoolVar(&renew, "renew", false, "replace a pair that is there")
	return c
}

func caInspectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "Print whose the certificates in a file are, until when, and by whom",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			all, err := edgetls.ReadCertificates(args[0])
			if err != nil {
				return err
			}
			return printCertificates(c.OutOrStdout(), all, time.Now())
		},
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
	}
}

func printCertificates(out io.Writer, all []*x509.Certificate, now time.Time) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for i, cert := range all {
		if i > 0 {
			fmt.Fprintln(t)
		}
		row := func(what string, value any) { fmt.Fprintf(t, "%s\t%s\n", what, harmless(value)) }
		for _, u := range cert.URIs {
			row("name", u)
		}
		for _, n := range cert.DNSNames {
			row("name", n)
		}
		for _, ip := range cert.IPAddresses {
			row("name", ip)
		}
		row("subject", cert.Subject)
		row("issuer", cert.Issuer)
		if cert.IsCA {
			row("kind", "authority")
		}
		row("from", date(cert.NotBefore))
		row("until", date(cert.NotAfter)+left(cert.NotAfter.Sub(now)))
		row("serial", fmt.Sprintf("%x", cert.SerialNumber))
	}
	return t.Flush()
}

// harmless is a text that does nothing to a terminal, whoever wrote it.
func harmless(value any) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, fmt.Sprint(value))
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// left says how much of a life is left.
func left(d time.Duration) string {
	switch {
	case d <= 0:
		return ", which is over"
	case d < 2*day24:
		return fmt.Sprintf(", in %s", d.Round(time.Minute))
	default:
		return fmt.Sprintf(", in %d days", int(d/day24))
	}
}
