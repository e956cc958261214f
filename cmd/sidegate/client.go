package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sidegate-proxy/sidegate/cmd/sidegate/internal/app"
)

// errNotRunning is what a command gets when no gateway answers on the socket.
var errNotRunning = errors.New("no gateway is running")

const (
	maxAnswer = 256 << 20
	callTime  = time.Minute // a handover may take 45 s
)

// ask gets a path of the running gateway's admin API through its unix socket.
func ask(ctx context.Context, socket, path string, into any) error {
	return call(ctx, http.MethodGet, socket, path, into)
}

// call is ask with a method, for what changes something.
func call(ctx context.Context, method, socket, path string, into any) error {
	return send(ctx, method, socket, path, nil, into)
}

// send is call with a body, if there is one: in JSON.
func send(ctx context.Context, method, socket, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	client := &http.Client{
		Timeout: callTime,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}},
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://sidegate"+path, content)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%s: no permission: run it as root or as the gateway's user", socket)
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w (nothing answers on %s)", errNotRunning, socket)
		}
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 && resp.StatusCode < 500 { // what the caller got wrong
		return errors.New(strings.TrimSpace(string(answer)))
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway answered %s: %s", resp.Status, strings.TrimSpace(string(answer)))
	}
	return json.Unmarshal(answer, into)
}

// listCommand makes a command that prints what get asks the gateway for, as a table
// or as JSON.
func listCommand[T any](c *cobra.Command, get func(ctx context.Context, socket string, args []string) ([]T, error), table func(io.Writer, []T) error) *cobra.Command {
	var path string
	var asJSON bool
	c.RunE = func(c *cobra.Command, args []string) error {
		list, err := get(c.Context(), socketPath(path), args)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), list)
		}
		return table(c.OutOrStdout(), list)
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// socketPath is where the gateway of a configuration listens for the CLI. A
// configuration that can't be read leaves the default.
func socketPath(config string) string {
	return filepath.Join(app.StateDir(config), "admin.sock")
}
