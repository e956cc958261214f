package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/proxy/policy/cache"
)

func cacheCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Show what the running gateway has stored of answers, and make it forget",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(cacheStatsCommand(), cachePurgeCommand(), cacheInspectCommand())
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
	if len(s.Routes) == 0 {
		_, err := fmt.Fprintln(out, "no route has a cache")
		return err
	}
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "ROUTE\tHIT RATIO\tHITS\tSTALE\tCOLLAPSED\tMISSES\tVALIDATED\tPASSED\tSTORED\tPURGED")
	for _, r := range s.Routes {
		ratio := "-"
		if all := r.Hits + r.Collapsed + r.Misses; all > 0 {
			ratio = fmt.Sprintf("%.1f %%", 100*float64(r.Hits+r.Collapsed)/float64(all))
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", r.Route, ratio, r.Hits, r.Stale, r.Collapsed, r.Misses, r.Validated, r.Passed, r.Stored, r.Purged)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range s.Routes {
		why := slices.Collect(maps.Keys(r.NotStored))
		sort.Slice(why, func(i, j int) bool {
			return r.NotStored[why[i]] > r.NotStored[why[j]] || r.NotStored[why[i]] == r.NotStored[why[j]] && why[i] < why[j]
		})
		for _, w := range why {
			fmt.Fprintf(out, "%s: %s stored: %s\n", r.Route, plural(int(r.NotStored[w]), "answer wasn't", "answers weren't"), w)
		}
	}
	if _, err := fmt.Fprintf(out, "%s, %d bytes of memory\n", plural(s.Items, "answer", "answers"), s.Bytes); err != nil || s.Disk.Most == 0 {
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
	var p cache.Purge
	var local, asJSON bool
	c := &cobra.Command{
		Use:   "purge [URL...]",
		Short: "Forget answers by URL, beginning of URLs, host, tag or route, on all nodes",
		Long: `Forgets answers, of every caller and variant: those of URLs, of all that begin so
(https://api.example.com/orders/*), of a scheme and host (https://api.example.com),
of hosts, with tags (Surrogate-Key, Cache-Tag), of routes; '*' alone is everything.
Those on their way aren't stored. With Consul it holds on all nodes.`,
		Example: "  sidegate cache purge https://api.example.com/orders/17\n  sidegate cache purge 'https://api.example.com/orders/*'\n  sidegate cache purge -tag order-17 -tag orders -soft",
		RunE: func(c *cobra.Command, args []string) error {
			p.URLs = args
			if err := p.Check(); err != nil {
				return err
			}
			var answer admin.Purged
			if err := send(c.Context(), http.MethodPost, socketPath(path), "/api/cache/purge", admin.PurgeRequest{Purge: p, Local: local}, &answer); err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), answer); err != nil {
					return err
				}
			} else if err := printPurged(c.OutOrStdout(), &p, answer); err != nil {
				return err
			}
			if answer.Nodes == admin.PurgeWaits {
				return errors.New("the other nodes haven't been told: " + answer.Error)
			}
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().StringArrayVar(&p.Hosts, "host", nil, "all of a host, of both schemes and, unless it has one, all ports; may be repeated")
	c.Flags().StringArrayVar(&p.Tags, "tag", nil, "all that services have tagged so; may be repeated")
	c.Flags().StringArrayVar(&p.Routes, "route", nil, "all of a route; may be repeated")
	c.Flags().BoolVar(&p.Soft, "soft", false, "make answers stale instead: they are validated, and used as stale ones may be")
	c.Flags().BoolVar(&local, "local", false, "on this node only")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printPurged(out io.Writer, p *cache.Purge, a admin.Purged) error {
	text := plural(a.Purged, "answer is", "answers are")
	if p.Soft {
		text += " stale"
	} else {
		text += " forgotten"
	}
	switch a.Nodes {
	case admin.PurgedEverywhere:
		text += " here, and all other nodes are told through Consul"
	case admin.PurgeWaits:
		text += " here"
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func cacheInspectCommand() *cobra.Command {
	var path string
	var asJSON bool
	c := &cobra.Command{
		Use:   "inspect URL",
		Short: "Show what is stored of a URL on this node, or why nothing is",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var i cache.Inspection
			q := url.Values{"url": {args[0]}}
			if err := ask(c.Context(), socketPath(path), "/api/cache/inspect?"+q.Encode(), &i); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), i)
			}
			printInspection(c.OutOrStdout(), &i, time.Now())
			return nil
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printInspection(out io.Writer, i *cache.Inspection, now time.Time) {
	p := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	if len(i.Answers) == 0 {
		p("nothing is stored of %s", i.URL)
	}
	for n := range i.Answers {
		a := &i.Answers[n]
		p("%d  %d bytes, %s old, %s", a.Status, a.Bytes, a.Age.Truncate(time.Second), shelfText(a))
		p("  route      %s%s", a.Route, prefixed(", service ", a.Service))
		p("  for        %s", a.Whom())
		for _, part := range []struct {
			name string
			m    map[string]string
		}{{"key", a.Key}, {"vary", a.Vary}, {"forwarded", a.Forwarded}} {
			for _, name := range slices.Sorted(maps.Keys(part.m)) {
				p("  %-10s %s: %s", part.name, name, part.m[name])
			}
		}
		if a.ETag != "" {
			p("  etag       %s", a.ETag)
		}
		if a.LastModified != "" {
			p("  modified   %s", a.LastModified)
		}
		if len(a.Tags) > 0 {
			p("  tags       %s", strings.Join(a.Tags, " "))
		}
		p("  in         %s", placeText(a))
	}
	if i.More > 0 {
		p("and %d more", i.More)
	}
	switch r := i.Refused; {
	case r != nil:
		p("the last answer that wasn't stored, %s ago: %d on route %s: %s", now.Sub(r.At).Truncate(time.Second), r.Status, r.Route, r.Why)
	case len(i.Answers) == 0:
		p("nor is it known that an answer of it came: `sidegate explain %s` says what the cache would do", i.URL)
	}
}

func prefixed(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func shelfText(a *cache.Stored) string {
	text := "fresh for " + a.Fresh.Truncate(time.Second).String()
	if a.Fresh <= 0 {
		text = "stale since " + (-a.Fresh).Truncate(time.Second).String()
	}
	if a.Validate {
		text = "validated each time"
	}
	if a.StaleWhileRevalidate > 0 {
		text += fmt.Sprintf(", then given for %s while a new one is fetched", a.StaleWhileRevalidate)
	}
	if a.StaleIfError > 0 {
		text += fmt.Sprintf(", for %s instead of an error", a.StaleIfError)
	}
	return text
}

func placeText(a *cache.Stored) string {
	var list []string
	if a.Memory > 0 {
		list = append(list, fmt.Sprintf("memory (%d bytes)", a.Memory))
	}
	if a.Disk > 0 {
		list = append(list, fmt.Sprintf("disk (%d bytes)", a.Disk))
	}
	text := strings.Join(list, ", ")
	if len(a.Encodings) > 0 {
		text += ", also as " + strings.Join(a.Encodings, ", ")
	}
	return text
}
