package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/session/ask"
)

const ownHelp = `
This is for users, inside their container, or over their own login:
"ssh HOST carrel status" is answered by carreld even when nothing in the
container works. It is about their own container and no other's, and needs
self_service in carrel.toml(5). Root uses "carrel inspect".`

// own makes the commands by which users ask about their own container.
func (a *app) own() []*cobra.Command {
	status := &cobra.Command{
		Use:     "status",
		Short:   "Say how one's own container is (users)",
		Long:    "Say how one's own container is, and what it uses of its limits.\n" + ownHelp,
		Example: "  carrel status",
	}
	sessions := &cobra.Command{
		Use:     "sessions",
		Short:   "List one's own sessions (users)",
		Long:    "List the sessions that are open in one's own container, with their terminals.\n" + ownHelp,
		Example: "  carrel sessions",
	}
	for _, c := range []*cobra.Command{status, sessions} {
		c.Args = cobra.NoArgs
		c.RunE = func(*cobra.Command, []string) error { return a.askOwn("carrel " + c.Name()) }
	}
	return []*cobra.Command{status, sessions}
}

// askOwn prints what carreld says.
func (a *app) askOwn(command string) error {
	text, status, err := ask.Own(command)
	if errors.Is(err, ask.ErrOutside) {
		return &statusError{exitDaemon, fmt.Errorf("%w; over a login: ssh HOST %s", ask.ErrOutside, command)}
	}
	if err != nil {
		return &statusError{exitDaemon, err}
	}
	if _, err := fmt.Fprint(a.stdout, text); err != nil {
		return err
	}
	if status != 0 {
		return &statusError{status: status}
	}
	return nil
}
