package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/proxy/upstream"
)

func statusCommand() *cobra.Command {
	var path string
	var asJSON, ready bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the running gateway is",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if ready {
				return printReady(c, socketPath(path), asJSON)
			}
			var s admin.Status
			if err := ask(c.Context(), socketPath(path), "/api/status", &s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			return printStatus(c.OutOrStdout(), &s)
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&ready, "ready", false, "print only whether it is ready for requests, and exit with 1 when it isn't: for health checks")
	return c
}

// printReady is /readyz for where nothing can ask by HTTP, as in a container
// without a shell. An error where the gateway isn't ready, or doesn't answer.
func printReady(c *cobra.Command, socket string, asJSON bool) error {
	var r admin.Readiness
	if err := ask(c.Context(), socket, "/readyz", &r); err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), r)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), readiness(r))
	return err
}

// readiness is r for people.
func readiness(r admin.Readiness) string {
	text := "ready"
	if !r.Ready {
		text = "NOT READY"
	}
	if r.Reason != "" {
		text += " (" + r.Reason + ")"
	}
	return text
}

func printStatus(out io.Writer, s *admin.Status) error {
	fmt.Fprintf(out, "sidegate %s, pid %d, up %s, %s\n", s.Version, s.PID, time.Since(s.Started).Round(time.Second), readiness(s.Ready))
	fmt.Fprintf(out, "config   %s, loaded %s, %d routes\n", s.Config.Path, s.Config.Loaded.Format(time.DateTime), s.Routes)
	if s.Config.RejectedBy != "" {
		fmt.Fprintf(out, "REJECTED %s: the files have changed since, but aren't in force:\n%s\n", s.Config.Rejected.Format(time.DateTime), s.Config.RejectedBy)
	}
	fmt.Fprintf(out, "memory   %s of %s (%s), %s\n", size(s.Memory.Used), size(s.Memory.Limit), s.Memory.LimitOf, s.Memory.Level)
	if c := s.Consul; c != nil {
		state := "connected"
		if !c.Connected {
			state = "AWAY for " + c.Age.Round(time.Second).String()
		}
		if c.Error != "" {
			state += ": " + c.Error
		}
		fmt.Fprintf(out, "consul   %s, %s, %d watches\n", c.Address, state, c.Watches)
	}
	printConsumers(out, s.Consumers)
	if c := s.Counters; c != nil {
		state := "answers"
		if !c.Up {
			state = fmt.Sprintf("AWAY for %s: %s", time.Since(c.Since).Round(time.Second), c.Error)
		}
		fmt.Fprintf(out, "counters %s, %s\n", c.In, state)
	}
	if c := s.Charges; c != nil {
		state := fmt.Sprintf("%d pending, %d dead letters", c.Pending, c.Dead)
		if c.Failing != "" {
			state += ", CAN'T BE WRITTEN: " + c.Failing
		}
		if len(c.Down) > 0 {
			state += ", NO ANSWER from " + strings.Join(c.Down, ", ")
		}
		fmt.Fprintf(out, "charges  %s\n", state)
	}
	printUsageState(out, s.Usage)
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	printSidecars(t, s.Sidecars)
	fmt.Fprintln(t, "\nLISTENER\tADDRESS\tPROTOCOLS\tCONNECTIONS\tIN FLIGHT\tACCEPTED\tREFUSED")
	for _, l := range s.Listeners {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\n", l.Name, l.Address, strings.Join(l.Protocols, " "), l.Connections, l.Busy, l.Accepted, l.Refused)
	}
	fmt.Fprintln(t, "\nSERVICE\tINSTANCE\tNODE\tSTATE\tWEIGHT\tIN FLIGHT\tLATENCY\tREQUESTS\tFAILURES")
	for _, v := range s.Services {
		name := v.Service
		if slices.Contains(s.Stale, v.Service) {
			name += " (last known)"
		}
		if v.Panic {
			name += " (health ignored)"
		}
		if len(v.Instances) == 0 {
			fmt.Fprintf(t, "%s\tnone\t\t\t\t\t\t\t\t\n", name)
		}
		for _, i := range v.Instances {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\t%d\t%d\n", name, i.Address, i.Node, instanceState(&i), i.Weight, i.Pending,
				atPresent(i.Latency), i.Requests, i.Failures)
			name = ""
		}
	}
	printAdaptive(t, s.Services)
	if len(s.Certificate) > 0 {
		fmt.Fprintln(t, "\nCERTIFICATE\tSOURCE\tUNTIL\tLAST ERROR")
		for _, c := range s.Certificate {
			until := "none yet"
			if !c.NotAfter.IsZero() {
				until = c.NotAfter.Format(time.DateTime)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", strings.Join(c.Names, ","), c.Source, until, c.Error)
		}
	}
	printAuth(t, s)
	if err := t.Flush(); err != nil {
		return err
	}
	for i, p := range s.Problems {
		if i == 0 {
			fmt.Fprintln(out, "\nPROBLEMS")
		}
		fmt.Fprintf(out, "%s: %s\n", p.Where, p.Text)
	}
	return nil
}

// printSidecars shows what is registered in Consul, and how its apps are.
func printSidecars(t io.Writer, list []admin.SidecarStatus) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(t, "\nSIDECAR\tREGISTRATION\tANNOUNCED\tCHECK\tCERTIFICATE\tAPP\tCALLS")
	for _, s := range list {
		state := s.State
		if !s.Since.IsZero() {
			state += " for " + time.Since(s.Since).Round(time.Second).String()
		}
		if s.Error != "" {
			state += ": " + s.Error
		}
		check := cmp.Or(s.Health, "-")
		if s.Maintenance != "" {
			check = "maintenance: " + s.Maintenance
		}
		app := s.App
		if s.AppError != "" {
			app = "AWAY: " + s.AppError
		}
		var calls []string
		for _, u := range s.Upstreams {
			calls = append(calls, u.Service+" at "+cmp.Or(u.Listen, s.Proxy))
		}
		if s.Proxy != "" {
			calls = append(calls, "any at "+s.Proxy)
		}
		announced := s.Announced
		if strings.HasPrefix(announced, ":") {
			announced = "agent's address" + announced
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, state, announced, check, cmp.Or(s.Identity, "none: plain text"), app, cmp.Or(strings.Join(calls, ", "), "-"))
	}
}

// size is a number of bytes for people.
func size(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

// atPresent is the latency that balancing goes by; - where nothing tells of it any more.
func atPresent(d time.Duration) string {
	if d = d.Round(10 * time.Microsecond); d == 0 {
		return "-"
	}
	return d.String()
}

// printAdaptive shows the limits that follow the latency.
func printAdaptive(t io.Writer, list []upstream.PoolStatus) {
	head := false
	for _, v := range list {
		a := v.Adaptive
		if a == nil {
			continue
		}
		if !head {
			head = true
			fmt.Fprintln(t, "\nADAPTIVE LIMIT\tAT ONCE\tIN FLIGHT\tAT EASE\tIN USE\tSHED: LOW\tNORMAL\tHIGH")
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%d\t%d\t%d\n", v.Service, a.Limit, a.InFlight, a.Baseline.Round(10*time.Microsecond),
			a.Latency.Round(10*time.Microsecond), a.Shed["low"], a.Shed["normal"], a.Shed["high"])
	}
}

// printConsumers says how consumers and keys are that stand in no file, if there
// are any.
func printConsumers(out io.Writer, c *admin.ConsumersStatus) {
	if c == nil || c.Beside+c.KeysInConsul+c.KeysOnDisk+c.Untold == 0 {
		return
	}
	fmt.Fprintf(out, "keys     %d made by command, %d consumers beside the files", c.KeysInConsul+c.KeysOnDisk, c.Beside)
	if c.Stale {
		fmt.Fprintf(out, ", LAST KNOWN %s ago", c.Age.Round(time.Second))
	}
	if c.Untold > 0 {
		fmt.Fprintf(out, ", %d revoked that Consul hasn't heard of", c.Untold)
	}
	fmt.Fprintln(out)
}

// printAuth prints who is asked about clients.
func printAuth(t io.Writer, s *admin.Status) {
	if len(s.Issuers) > 0 {
		fmt.Fprintln(t, "\nISSUER\tKEYS\tAGE\tLAST ERROR")
		for _, i := range s.Issuers {
			age := "none yet"
			if !i.Fetched.IsZero() {
				age = i.Age.Round(time.Second).String()
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", i.Issuer, i.Keys, age, i.Error)
		}
	}
	if len(s.Auth) > 0 {
		fmt.Fprintln(t, "\nAUTH SERVICE\tREQUESTS\tFAILURES\tLAST ERROR")
		for _, a := range s.Auth {
			fmt.Fprintf(t, "%s\t%d\t%d\t%s\n", a.URL, a.Requests, a.Failures, a.Error)
		}
	}
}

func instanceState(i *upstream.InstanceStatus) string {
	s := i.Health
	if !i.Eligible && i.Why != "" {
		s += ", gets nothing: " + i.Why
	}
	if i.CheckError != "" {
		s += " (check: " + i.CheckError + ")"
	} else if i.TLSError != "" {
		s += " (" + i.TLSError + ")"
	}
	return s
}
