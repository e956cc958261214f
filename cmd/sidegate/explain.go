package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

func explainCommand() *cobra.Command {
	var path, method, client, listener string
	var headers []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain URL",
		Short: "Say what would become of a request, without sending it",
		Long: `Say which route a request would take, which it wouldn't and why, which policies
it would meet, and which instances might answer: as the running gateway sees it
or, when none runs, by the configuration and what Consul says now.`,
		Example: "  sidegate explain https://api.example.com/orders/17\n  sidegate explain -method POST -header 'X-Version: 2' https://api.example.com/orders",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			q := admin.Question{Method: method, URL: args[0], Client: client, Listener: listener, Headers: map[string]string{}}
			query := url.Values{"method": {method}, "url": {args[0]}, "client": {client}, "listener": {listener}}
			for _, h := range headers {
				name, value, ok := strings.Cut(h, ":")
				if !ok {
					return fmt.Errorf("-header %q: write it as 'NAME: VALUE'", h)
				}
				q.Headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
				query.Add("header", h)
			}
			var e admin.Explanation
			err := ask(c.Context(), socketPath(path), "/api/explain?"+query.Encode(), &e)
			if errors.Is(err, errNotRunning) {
				e, err = app.OfflineExplain(c.Context(), app.Options{Config: path, Version: version, Stderr: c.ErrOrStderr()}, q)
			}
			if err != nil {
				return reported(c, err)
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), e)
			}
			printExplanation(c.OutOrStdout(), &e)
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&method, "method", "GET", "the request's method")
	c.Flags().StringArrayVar(&headers, "header", nil, "a header field, 'NAME: VALUE'; may be repeated")
	c.Flags().StringVar(&client, "client", "", "the client's address (default 127.0.0.1)")
	c.Flags().StringVar(&listener, "listener", "", "the listener that it comes by, as status names it: those of sidecars have routes of their own")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func printExplanation(out io.Writer, e *admin.Explanation) {
	p := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	p("%s %s://%s%s", e.Method, e.Scheme, e.Host, e.Path)
	if e.Listener != "" {
		p("listener   %s", e.Listener)
	}
	for _, c := range e.Candidates {
		mark := "no "
		if c.Matches {
			mark = "yes"
		}
		p("  %s  %-24s %s", mark, c.Route, c.Why)
	}
	if e.Refused != "" {
		p("refused    %d: %s", e.Status, e.Refused)
		return
	}
	p("route      %s (%s)", e.Route, e.Origin)
	p("priority   %s", e.Priority)
	if len(e.Policies) == 0 {
		p("policies   none")
	}
	for _, s := range e.Policies {
		p("policy     %s", s)
	}
	if e.Note != "" {
		p("note       %s", e.Note)
	}
	if e.Status != 0 {
		p("answers    %d, by the gateway itself", e.Status)
	}
	if e.Forwarded != "" {
		p("forwards   %s", e.Forwarded)
	}
	for _, s := range e.Services {
		p("service    %s %s(balance %s)", s.Service, s.Share, s.Balance)
		if s.Adaptive != "" {
			p("  %s", s.Adaptive)
		}
		for _, i := range s.Choices {
			why := "may answer"
			if !i.Eligible {
				why = "gets nothing"
			}
			if i.Why != "" {
				why += ": " + i.Why
			}
			p("  instance %-22s %s", i.Address, why)
		}
		if len(s.Choices) == 0 {
			p("  no instance is known: the answer would be 503")
		}
	}
}
