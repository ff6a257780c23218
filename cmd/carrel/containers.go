package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/session/admin"
)

// ps lists the running containers.
func (a *app) ps() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "ps",
		Short: "List the running containers",
		Long: `List the running containers, one for each user. MEMORY and PROCS are what is in
use and the limit. A note says which limits this host cannot enforce.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Containers(c.Context())
			if err != nil {
				return err
			}
			if a.asJSON {
				return writeJSON(a.stdout, append([]admin.Container{}, list...))
			}
			return containerGrid(list, time.Now()).write(a.stdout)
		},
	})
}

func containerGrid(list []admin.Container, now time.Time) *grid {
	g := newGrid("USER", "UID", "IMAGE", "STATE", "UP", "SESSIONS", "PID", "MEMORY", "PROCS", "NOTE")
	for _, c := range list {
		memory, procs := "", ""
		if c.Limits.MemoryBytes > 0 {
			memory = size(c.Limits.MemoryBytes)
		}
		if c.Limits.Pids > 0 {
			procs = strconv.FormatInt(c.Limits.Pids, 10)
		}
		note := ""
		if len(c.Unenforced) > 0 {
			note = "not enforced: " + strings.Join(c.Unenforced, ", ")
		}
		g.add(c.User, strconv.FormatUint(uint64(c.UID), 10), c.Image, string(c.State), age(now.Sub(c.Started)), strconv.Itoa(c.Sessions),
			strconv.Itoa(c.InitPID), of(size(c.MemoryBytes), memory), of(strconv.FormatInt(c.Pids, 10), procs), note)
	}
	return g
}

// stop ends containers.
func (a *app) stop() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "stop USER...",
		Short: "Stop the containers of users",
		Long: `Stop the containers of users, given by name or uid, with every session and
background process in them. Homes and what users changed in their file systems
stay. The next login starts a new container. That none was running is not a
failure.`,
		Example: "  carrel stop alice 1001\n  carrel stop --all",
		Args: func(_ *cobra.Command, args []string) error {
			if (len(args) > 0) == all {
				return errors.New("stop: name users, or write --all")
			}
			return nil
		},
		ValidArgsFunction: a.completeUsers,
		RunE: func(c *cobra.Command, args []string) error {
			stop := a.client().StopAll
			if !all {
				stop = func(ctx context.Context) ([]admin.Stopped, error) { return a.client().Stop(ctx, args...) }
			}
			list, err := stop(c.Context())
			if err != nil {
				return err
			}
			return a.reportStopped(c.Context(), list)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "stop all containers")
	return a.jsonFlag(c)
}

// reportStopped says what became of each user's container.
func (a *app) reportStopped(ctx context.Context, list []admin.Stopped) error {
	status := 0
	var known accounts.Source
	for i, s := range list {
		user := clean(s.User)
		switch {
		case s.Error != "":
			status = max(status, exitFailed)
			fmt.Fprintf(a.stderr, "carrel: stop %s: %s\n", user, clean(s.Error))
		case s.Ran && !a.asJSON:
			fmt.Fprintln(a.stdout, "stopped", user)
		case !s.Ran:
			if _, err := lookup(ctx, &known, s.User); errors.Is(err, accounts.ErrNotFound) {
				list[i].Error = "no such account"
				status = exitNoUser
				fmt.Fprintf(a.stderr, "carrel: stop %s: the host has no such account\n", user)
				continue
			}
			fmt.Fprintf(a.stderr, "carrel: stop %s: no container was running\n", user)
		}
	}
	if a.asJSON {
		if err := writeJSON(a.stdout, append([]admin.Stopped{}, list...)); err != nil {
			return err
		}
	}
	if status != 0 {
		return &statusError{status: status}
	}
	return nil
}

// completeUsers offers the users who have a container.
func (a *app) completeUsers(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), time.Second)
	defer cancel()
	list, err := a.client().Containers(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var users []string
	for _, container := range list {
		users = append(users, clean(container.User))
	}
	return users, cobra.ShellCompDirectiveNoFileComp
}

// lookup finds the account that an administrator named, by name or uid.
func lookup(ctx context.Context, source *accounts.Source, user string) (accounts.Account, error) {
	if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
		return source.Lookup(ctx, uint32(uid))
	}
	return source.LookupName(ctx, user)
}

// account is lookup for a command that cannot go on without one.
func account(ctx context.Context, user string) (accounts.Account, error) {
	found, err := lookup(ctx, &accounts.Source{}, user)
	if errors.Is(err, accounts.ErrNotFound) {
		err = &statusError{exitNoUser, err}
	}
	return found, err
}
