// Sidegate is an API gateway for services on bare metal and VMs: it terminates
// TLS and HTTP/1.1, HTTP/2 and HTTP/3, finds backends in Consul, balances load
// and applies policies. This command is all of it; each subcommand has a file
// of its own here, and what they assemble is in internal/app.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	root := rootCommand()
	root.SetArgs(longFlags(os.Args[1:]))
	err := root.ExecuteContext(ctx)
	stop()
	if err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintln(os.Stderr, "sidegate:", err)
		}
		if errors.As(err, new(usageError)) || strings.HasPrefix(err.Error(), "unknown command") { // cobra's own, of no type
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// misuse has what is wrong with a command line end in 2, and keeps files out of
// completions where none are meant.
func misuse(c *cobra.Command) {
	noFiles(c)
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	if c.HasParent() && c.HasSubCommands() && !c.Runnable() { // cobra shows its help for a word that is none of them, and ends in 0
		c.Args, c.DisableFlagsInUseLine = cobra.NoArgs, true
		c.FParseErrWhitelist.UnknownFlags = true // the word is what is wrong
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%w: write it as %s, and see %s --help", err, c.UseLine(), c.CommandPath())}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		misuse(sub)
	}
}

// errReported is an error that has been printed in full already.
var errReported = errors.New("reported")

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "sidegate",
		Short:         "An API gateway for services on bare metal and VMs",
		Long:          "Sidegate terminates TLS, finds backends in Consul, balances load and applies policies.\nIt reads /etc/sidegate/*.hcl unless told otherwise.",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		initCommand(), runCommand(), validateCommand(), doctorCommand(), routesCommand(), completes(explainCommand(), first(routeURLs)), handoverCommand(), statusCommand(), topCommand(), banCommand(), cacheCommand(), quotaCommand(), usageCommand(), chargesCommand(), keyCommand(),
		fmtCommand(), caCommand(), demoCommand(), versionCommand(),
	)
	misuse(root)
	return root
}

var singleDash = regexp.MustCompile(`^-[a-z][a-z-]+(=.*)?$`)

// longFlags lets -config mean --config, as Go's own flags do and as
// documentation, units and habits write it. Flags of one letter stay.
func longFlags(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if a == "--" {
			copy(out[i:], args[i:])
			break
		}
		out[i] = a
		if singleDash.MatchString(a) {
			out[i] = "-" + a
		}
	}
	return out
}

const defaultConfig = "/etc/sidegate/"

func configFlag(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "config", defaultConfig, "configuration file, or folder of *.hcl files")
	c.PreRunE = func(*cobra.Command, []string) error {
		if _, err := os.Stat(*path); *path != defaultConfig && errors.Is(err, os.ErrNotExist) { // or another gateway would be asked
			return fmt.Errorf("there is no file %s: say where the configuration is with -config PATH", *path)
		}
		return nil
	}
}
