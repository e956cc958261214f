package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/proxy/policy/charge"
)

func chargesCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "charges",
		Short: "Show what was charged, and see to it that the billing services know",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(chargesListCommand(), chargesShowCommand(), chargesRetryCommand(), chargesTotalsCommand(), chargesReconcileCommand())
	return c
}

func chargesListCommand() *cobra.Command {
	var q struct{ state, consumer, meter, route string }
	var limit int
	c := &cobra.Command{Use: "list", Short: "List charges, the newest first: pending ones, dead letters, and those that ended last", Args: cobra.NoArgs}
	c.Flags().StringVar(&q.state, "state", "", "only those that are pending, dead or done")
	c.Flags().StringVar(&q.consumer, "consumer", "", "only those of a consumer")
	c.Flags().StringVar(&q.meter, "meter", "", "only those of a meter")
	c.Flags().StringVar(&q.route, "route", "", "only those of a route")
	c.Flags().IntVar(&limit, "limit", 100, "how many at most; 0: all")
	return listCommand(c, func(ctx context.Context, socket string, _ []string) (list []charge.Entry, err error) {
		v := url.Values{}
		for name, value := range map[string]string{"state": q.state, "consumer": q.consumer, "meter": q.meter, "route": q.route} {
			if value != "" {
				v.Set(name, value)
			}
		}
		list = []charge.Entry{}
		for {
			n := 1000
			if limit > 0 {
				n = min(limit-len(list), n)
			}
			v.Set("limit", strconv.Itoa(n))
			var p charge.Page
			if err := ask(ctx, socket, "/api/charges?"+v.Encode(), &p); err != nil {
				return nil, err
			}
			list = append(list, p.Charges...)
			if p.Next == "" || limit > 0 && len(list) >= limit {
				return list, nil
			}
			v.Set("after", p.Next)
		}
	}, printCharges)
}

func printCharges(out io.Writer, list []charge.Entry) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "no charges")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tTIME\tSTATE\tMETER\tUNITS\tCONSUMER\tROUTE\tSERVICE\tREASON")
	for _, e := range list {
		what := e.Meter
		if e.Kind == "lease" {
			what += " (lease)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, e.Time.Format(time.RFC3339), e.State, what, e.Units, shown("consumer", e.Consumer), e.Route, e.Service, e.Reason)
	}
	return t.Flush()
}

func chargesShowCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show all that is known of a charge, as JSON",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var e charge.Entry
			if err := ask(c.Context(), socketPath(path), "/api/charges/"+url.PathEscape(args[0]), &e); err != nil {
				return err
			}
			return printJSON(c.OutOrStdout(), e)
		},
	}
	configFlag(c, &path)
	return c
}

func chargesRetryCommand() *cobra.Command {
	var path string
	var all bool
	c := &cobra.Command{
		Use:   "retry [ID...]",
		Short: "Have the billing service told of dead letters again",
		RunE: func(c *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return errors.New("say which: some IDs, or --all")
			}
			queries := []string{"all=true"}
			if !all {
				queries = nil
				for _, id := range args {
					queries = append(queries, url.Values{"id": {id}}.Encode())
				}
			}
			total := 0
			for _, q := range queries {
				var n struct{ Retried int }
				if err := call(c.Context(), http.MethodPost, socketPath(path), "/api/charges/retry?"+q, &n); err != nil {
					return err
				}
				total += n.Retried
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "%d dead letters are told again\n", total)
			return err
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all of them")
	configFlag(c, &path)
	return c
}

// days adds the flags for a span of days, which begins so unless given.
func days(c *cobra.Command, v url.Values, begins string) {
	for _, f := range []struct{ name, usage string }{
		{"since", "from this day on, in UTC: 2026-11-25, or 7d for seven days ago (default " + begins + ")"}, {"until", "before this day, likewise (default to the end)"},
	} {
		c.Flags().Func(f.name, f.usage, func(text string) error { v.Set(f.name, day(text, time.Now())); return nil })
	}
}

// day is the day that was so many days ago, for 7d, and otherwise text itself.
func day(text string, now time.Time) string {
	if number, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(number, 10, 16); err == nil {
			return now.UTC().AddDate(0, 0, -int(n)).Format(time.DateOnly)
		}
	}
	return text
}

func chargesTotalsCommand() *cobra.Command {
	v := url.Values{}
	c := &cobra.Command{Use: "totals [CONSUMER]", Short: "Show what this gateway has charged, by day, consumer and meter", Args: cobra.MaximumNArgs(1)}
	days(c, v, "all that is remembered")
	return listCommand(c, func(ctx context.Context, socket string, args []string) ([]charge.Total, error) {
		if len(args) > 0 {
			v.Set("consumer", args[0])
		}
		var t charge.Totals
		err := ask(ctx, socket, "/api/charges/totals?"+v.Encode(), &t)
		return t.Totals, err
	}, func(out io.Writer, list []charge.Total) error {
		if len(list) == 0 {
			_, err := fmt.Fprintln(out, "nothing was charged")
			return err
		}
		t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "DAY\tCONSUMER\tMETER\tUNITS\tCHARGES\tTOLD\tUNTOLD\tSERVICE")
		for _, r := range list {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.Day, shown("consumer", r.Consumer), r.Meter, r.Units, r.Count, r.Told, r.Untold, r.Service)
		}
		return t.Flush()
	})
}

func chargesReconcileCommand() *cobra.Command {
	var path string
	var asJSON bool
	v := url.Values{}
	c := &cobra.Command{
		Use:   "reconcile [SERVICE]",
		Short: "Compare what this gateway has charged with what the billing services say; exits 1 with differences",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				v.Set("service", args[0])
			}
			var r charge.Comparison
			if err := ask(c.Context(), socketPath(path), "/api/charges/reconcile?"+v.Encode(), &r); err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), r); err != nil {
					return err
				}
			} else if err := printComparison(c.OutOrStdout(), &r); err != nil {
				return err
			}
			for _, s := range r.Services {
				if s.Error != "" || len(s.Differences) > 0 {
					return errReported
				}
			}
			return nil
		},
	}
	days(c, v, "7d")
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printComparison(out io.Writer, r *charge.Comparison) error {
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	if len(r.Services) == 0 {
		fmt.Fprintln(t, "there is no billing service")
	}
	for _, s := range r.Services {
		switch {
		case s.Error != "":
			fmt.Fprintf(t, "%s: nothing can be compared: %s\n", s.Service, s.Error)
		case len(s.Differences) == 0:
			fmt.Fprintf(t, "%s: no difference in %d days of consumers and meters, from %s to before %s\n", s.Service, s.Compared, r.Since, r.Until)
		default:
			fmt.Fprintf(t, "%s: %d of %d differ\n", s.Service, len(s.Differences), s.Compared)
			fmt.Fprintln(t, "DAY\tCONSUMER\tMETER\tOURS\tTHEIRS\tUNTOLD")
			for _, d := range s.Differences {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Day, shown("consumer", d.Consumer), d.Meter, d.Ours, d.Theirs, d.Untold)
			}
		}
	}
	return t.Flush()
}
