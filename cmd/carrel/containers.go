package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/session/admin"
)

// ps lists the running containers.
func (a *app) ps() *cobra.Command {
	var who choice
	c := &cobra.Command{
		Use:   "ps [USER...]",
		Short: "List the running containers",
		Long: `List the running containers, one for each user, or those of the users named.
MEMORY and PROCS are what is in use and the limit. A note says which limits this host cannot enforce. A frozen
container may have sessions, but cannot say how many.`,
		Example:           "  carrel ps\n  carrel ps --group students\n  carrel ps --json",
		Args:              who.optional,
		ValidArgsFunction: a.completeUsers,
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.client().Containers(c.Context())
			if err == nil {
				list, err = a.only(c.Context(), who, args, list)
			}
			if err != nil {
				return err
			}
			if a.asJSON {
				return writeJSON(a.stdout, append([]admin.Container{}, list...))
			}
			return containerGrid(list, time.Now()).write(a.stdout)
		},
	}
	who.flags(c, "all containers, as without any choice")
	_ = c.RegisterFlagCompletionFunc("group", a.completeGroups)
	return a.jsonFlag(c)
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

// completeTime bounds what a key press may wait for.
const completeTime = time.Second

// completeUsers offers the users who have a container.
func (a *app) completeUsers(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completeTime)
	defer cancel()
	list, err := a.client().Usage(ctx)
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
