package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/session/admin"
)

// configuration holds the commands about carrel.toml.
func (a *app) configuration() *cobra.Command {
	check := a.jsonFlag(&cobra.Command{
		Use:   "check [FILE|-]",
		Short: "Name every mistake in the configuration",
		Long: `Check a configuration file as carreld does when it starts: its text, its owner
and its mode. Without FILE it is the one of --config; "-" checks the text that
comes on standard input. Every mistake is named with its line and a remedy, and
the exit status is 78 if there is one. The keys are in carrel.toml(5).`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := a.configPath
			if len(args) > 0 {
				file = args[0]
			}
			return a.check(file)
		},
	})
	return group("config", "Check the configuration", check)
}

// A verdict is the JSON of config check.
type verdict struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Problems config.Problems `json:"problems"`
}

// check prints what is wrong with a configuration file.
func (a *app) check(file string) error {
	var err error
	if file == "-" {
		file = "standard input"
		var text []byte
		if text, err = io.ReadAll(io.LimitReader(a.stdin, 1<<20)); err != nil {
			return err
		}
		_, err = config.Parse(file, text)
	} else {
		_, err = config.Load(file)
	}
	problems, listed := errors.AsType[config.Problems](err)
	if err != nil && !listed { // the file could not be read at all
		return &statusError{exitConfig, err}
	}
	if a.asJSON {
		if err := writeJSON(a.stdout, verdict{file, err == nil, append(config.Problems{}, problems...)}); err != nil {
			return err
		}
		if listed {
			return &statusError{status: exitConfig}
		}
		return nil
	}
	if listed {
		return &statusError{exitConfig, err}
	}
	fmt.Fprintf(a.stdout, "%s: no mistakes\n", clean(file))
	return nil
}

// policy holds the commands about decisions.
func (a *app) policy() *cobra.Command {
	explain := a.jsonFlag(&cobra.Command{
		Use:   "explain USER",
		Short: "Say whether a user may log in, what they get, and why",
		Long: `Decide about a user, given by name or uid, as carreld does at a login, and show
the rules that were looked at. Nothing is started. The exit status does not say
what the decision is; the field "decision" of the JSON is there when the user is
admitted.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			loaded, err := a.loadConfig()
			if err != nil {
				return err
			}
			user, err := account(c.Context(), args[0])
			if err != nil {
				return err
			}
			explanation := policy.New(loaded).Explain(policy.Request{Account: policyAccount(user)})
			if a.asJSON {
				return writeJSON(a.stdout, explanation)
			}
			for line := range strings.Lines(explanation.String()) {
				fmt.Fprintln(a.stdout, clean(strings.TrimSuffix(line, "\n")))
			}
			return nil
		},
	})
	return group("policy", "Explain decisions", explain)
}

// policyAccount tells package policy what package accounts found.
func policyAccount(from accounts.Account) policy.Account {
	to := policy.Account{Name: from.Name, UID: from.UID, GID: from.GID, Home: from.Home, Shell: from.Shell}
	for _, g := range from.Groups {
		to.Groups = append(to.Groups, policy.Group(g))
	}
	return to
}

// version prints which carrel this is, and which carreld runs, if we may know.
func (a *app) version() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "version",
		Short: "Print the versions of carrel and of the running carreld",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var daemon *admin.Status
			status, err := a.client().Status(c.Context())
			if err == nil {
				daemon = &status
			}
			if a.asJSON {
				return writeJSON(a.stdout, map[string]any{"carrel": version, "go": runtime.Version(), "carreld": daemon})
			}
			fmt.Fprintf(a.stdout, "carrel %s (%s)\n", version, runtime.Version())
			switch {
			case daemon != nil:
				fmt.Fprintf(a.stdout, "carreld %s (pid %d, %d containers)\n", clean(daemon.Version), daemon.PID, daemon.Containers)
			case errors.Is(err, admin.ErrNotRunning):
				fmt.Fprintln(a.stdout, "carreld is not running")
			default:
				fmt.Fprintln(a.stdout, "carreld: only root may ask")
			}
			return nil
		},
	})
}
