package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/admin"
)

// Exit statuses, after sysexits.h.
const (
	exitFailed = 1
	exitUsage  = 64
	exitNoUser = 67
	exitDaemon = 69
	exitNoRoot = 77
	exitConfig = 78
	exitSignal = 130 // as a shell says of SIGINT
)

const longHelp = `Carrel gives each user of this host a private machine: their login shell is a
container of their own. This command shows the administrator what runs and what
happened, stops, freezes and resets containers, shuts the door for maintenance,
imports images, and explains who gets what. Users need carrelsh(1) only.

EXIT STATUS

- 0: success
- 1: the command could not do its work, or not all of it
- 64: the command line is not understood
- 67: the host has no such account
- 69: carreld is not running
- 77: only root may do this
- 78: the configuration has mistakes
- 130: interrupted

After "carrel enter", the exit status is that of carrelsh(1).`

// A statusError is an error that has an exit status of its own.
type statusError struct {
	status int
	err    error // nil: everything was said already
}

func (e *statusError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

var errNotRoot = &statusError{exitNoRoot, errors.New("only root may do this; try again with sudo")}

// run executes the command line and returns the exit status.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.command()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if text := err.Error(); text != "" {
		for line := range strings.Lines(text) {
			fmt.Fprintln(a.stderr, "carrel: "+clean(strings.TrimSuffix(line, "\n")))
		}
	}
	return a.status(err)
}

// status returns the exit status for err.
func (a *app) status(err error) int {
	if s, ok := errors.AsType[*statusError](err); ok {
		return s.status
	}
	switch {
	case errors.Is(err, context.Canceled):
		return exitSignal
	case !a.running:
		fmt.Fprintln(a.stderr, "carrel: see carrel --help")
		return exitUsage
	case errors.Is(err, admin.ErrNotRunning):
		fmt.Fprintln(a.stderr, "carrel: start it with: systemctl start carreld, or without systemd: carreld &")
		return exitDaemon
	case errors.Is(err, admin.ErrNotRoot), errors.Is(err, os.ErrPermission) && os.Geteuid() != 0:
		return exitNoRoot
	}
	return exitFailed
}

// command returns the tree of commands.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:               "carrel",
		Short:             "Manage the private machines of this host's users",
		Long:              longHelp,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
		PersistentPreRun:  func(*cobra.Command, []string) { a.running = true },
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.configPath, "config", config.DefaultPath, "configuration `file`; a missing one means the defaults")
	flags.StringVar(&a.runDir, "run-dir", filepath.Dir(socketPath), "`directory` of carreld's sockets")
	flags.StringVar(&a.stateDir, "state-dir", "/var/lib/carrel", "`directory` of images and homes")
	flags.StringVar(&a.libexecDir, "libexec-dir", "", "`directory` of Carrel's helpers (default: ../libexec/carrel, seen from carrel)")
	root.AddCommand(a.ps(), a.top(), a.inspect(), a.logs(), a.events(), a.enter(), a.stop(), a.kill(), a.freeze(), a.thaw(),
		a.reset(), a.remove(), a.wall(), a.maintenance(), a.images(), a.configuration(), a.policy(), a.doctor(), a.version(), a.docs())
	root.AddCommand(a.own()...)
	return root
}

// group returns a command that only holds others. Cobra alone would take
// "carrel image lss" for a request for help.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var names []string
			for _, sub := range c.Commands() {
				names = append(names, sub.Name())
			}
			return &statusError{exitUsage, fmt.Errorf("%s: say which: %s", c.CommandPath(), strings.Join(names, ", "))}
		},
	}
	c.AddCommand(commands...)
	return c
}

// jsonFlag gives c the flag --json.
func (a *app) jsonFlag(c *cobra.Command) *cobra.Command {
	c.Flags().BoolVar(&a.asJSON, "json", false, "print JSON")
	return c
}

// client asks the carreld of --run-dir.
func (a *app) client() *admin.Client {
	return &admin.Client{Path: filepath.Join(a.runDir, "admin.sock")}
}

// loadConfig returns the configuration, or an error that ends with status 78.
func (a *app) loadConfig() (*config.Config, error) {
	c, err := config.Load(a.configPath)
	if err != nil {
		return nil, &statusError{exitConfig, err}
	}
	return c, nil
}

// beside returns given, or if that is empty a path next to this program.
func beside(given, name string) string {
	if given != "" {
		return given
	}
	own, err := os.Executable()
	if err != nil {
		own = "/usr/bin/carrel"
	}
	return filepath.Join(filepath.Dir(own), name)
}

// clean makes foreign text fit for a terminal, on one line.
func clean(s string) string { return session.Printable(s, 4096) }
