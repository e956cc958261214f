package main

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/admin"
	"github.com/sidegate-proxy/sidegate/proxy/policy/ban"
	"github.com/sidegate-proxy/sidegate/proxy/policy/quota"
)

const (
	// completeTime is how long a shell waits for what the gateway knows.
	completeTime = 500 * time.Millisecond
	// maxChoices bounds what is offered to a person.
	maxChoices = 500
)

// asker asks the gateway of a configuration.
type asker func(path string, into any) error

// source finds what may stand in the place of the next argument. before are those
// that are there.
type source func(ask asker, before []string) ([]string, error)

// completes has the arguments of a command completed by what the running gateway
// says; without one there is nothing to offer, and never a file.
func completes(c *cobra.Command, find source) *cobra.Command {
	c.ValidArgsFunction = func(c *cobra.Command, before []string, begun string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(c.Context(), completeTime)
		defer cancel()
		config := defaultConfig
		if f := c.Flags().Lookup("config"); f != nil {
			config = f.Value.String()
		}
		socket := socketPath(config)
		list, err := find(func(path string, into any) error { return ask(ctx, socket, path, into) }, before)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp // a shell has no place for it
		}
		var out []string
		for _, choice := range list {
			if strings.HasPrefix(choice, begun) && printable(choice) == choice {
				out = append(out, choice)
			}
		}
		slices.Sort(out)
		out = slices.Compact(out)
		return out[:min(len(out), maxChoices)], cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// noFiles keeps names of files from commands that take none.
func noFiles(c *cobra.Command) {
	if c.ValidArgsFunction == nil && c.Args != nil {
		c.ValidArgsFunction = cobra.NoFileCompletions
	}
}

// first is a source for a command's only argument.
func first(list func(asker) ([]string, error)) source {
	return func(ask asker, before []string) ([]string, error) {
		if len(before) > 0 {
			return nil, nil
		}
		return list(ask)
	}
}

func consumerNames(ask asker) ([]string, error) {
	var page admin.ConsumerPage
	err := ask("/api/consumers?"+url.Values{"limit": {"500"}}.Encode(), &page)
	var names []string
	for _, c := range page.Consumers {
		names = append(names, c.Name)
	}
	return names, err
}

// keyIDs are the ids of the keys that aren't revoked.
func keyIDs(ask asker) ([]string, error) {
	var page admin.KeyPage
	err := ask("/api/keys?"+url.Values{"limit": {"500"}}.Encode(), &page)
	var ids []string
	for _, k := range page.Keys {
		if k.Revoked.IsZero() {
			ids = append(ids, k.ID)
		}
	}
	return ids, err
}

func bannedAddresses(ask asker) ([]string, error) {
	var list []ban.Ban
	err := ask("/api/bans", &list)
	var addresses []string
	for _, b := range list {
		addresses = append(addresses, b.Client)
	}
	return addresses, err
}

// quotaWords are those of sidegate quota set QUOTA CLIENT PERIOD USED.
func quotaWords(ask asker, before []string) ([]string, error) {
	if len(before) > 2 {
		return nil, nil
	}
	var list []quota.Use
	err := ask("/api/quotas", &list)
	var words []string
	for _, u := range list {
		use := []string{u.Quota, u.Client, u.Period}
		if slices.Equal(use[:len(before)], before) {
			words = append(words, use[len(before)])
		}
	}
	return words, err
}

func quotaClients(ask asker) ([]string, error) {
	var list []quota.Use
	err := ask("/api/quotas", &list)
	var clients []string
	for _, u := range list {
		clients = append(clients, u.Client)
	}
	return clients, err
}

// routeURLs are the beginnings of URLs that routes answer.
func routeURLs(ask asker) ([]string, error) {
	var list []admin.RouteStatus
	err := ask("/api/routes", &list)
	var urls []string
	for _, r := range list {
		if r.Host != "" && !strings.HasPrefix(r.Host, "*") {
			path := r.Path
			if i := strings.IndexAny(path, "*{"); i >= 0 {
				path = path[:i]
			}
			urls = append(urls, "https://"+r.Host+cmp.Or(path, "/"))
		}
	}
	return urls, err
}
