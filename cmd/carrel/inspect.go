package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/session/admin"
)

// inspect tells all about containers.
func (a *app) inspect() *cobra.Command {
	var who choice
	c := &cobra.Command{
		Use:   "inspect USER...",
		Short: "Tell all about the containers of users",
		Long: `Tell all that carreld knows of the running containers of users: limits and use,
where things are on the host, the sessions that are open and the processes that
run. The names of processes are what these call themselves. The id of a session
is what "carrel kill --session" takes. The exit status is 1 if a user has no
container.`,
		Example:           "  carrel inspect alice\n  carrel inspect --json --all",
		Args:              who.args,
		ValidArgsFunction: a.completeUsers,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.containers(c.Context(), who, args)
			if errors.Is(err, errNobody) {
				return nil
			}
			if err != nil {
				return err
			}
			details, rest, err := a.client().Inspect(c.Context(), r.Users, r.All)
			if err != nil {
				return err
			}
			if a.asJSON {
				err = writeJSON(a.stdout, append([]admin.Detail{}, details...))
			} else {
				err = writeDetails(a.stdout, details)
			}
			if err != nil {
				return err
			}
			return a.missing(c.Context(), rest)
		},
	}
	who.flags(c, "all containers")
	_ = c.RegisterFlagCompletionFunc("group", a.completeGroups)
	return a.jsonFlag(c)
}

// missing says of whom there is nothing to tell.
func (a *app) missing(ctx context.Context, rest []admin.Result) error {
	status := 0
	var known accounts.Source
	for _, r := range rest {
		status = max(status, exitFailed)
		why := r.Error
		if why == "" {
			why = "no container is running"
			if _, err := lookup(ctx, &known, r.User); errors.Is(err, accounts.ErrNotFound) {
				why, status = "the host has no such account", exitNoUser
			}
		}
		fmt.Fprintf(a.stderr, "carrel: inspect %s: %s\n", clean(r.User), clean(why))
	}
	if status != 0 {
		return &statusError{status: status}
	}
	return nil
}

// writeDetails prints one block for each container.
func writeDetails(w io.Writer, list []admin.Detail) error {
	for i, d := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, line := range detailLines(d) {
			fmt.Fprintf(t, "%s\t%s\n", line[0], clean(line[1]))
		}
		if err := t.Flush(); err != nil {
			return err
		}
		sessions := newGrid("  SESSION", "SINCE", "TERMINAL", "PID INSIDE")
		for _, s := range d.SessionList {
			sessions.add("  s"+strconv.FormatUint(s.ID, 10), s.Started.Local().Format(time.DateTime), s.Terminal, strconv.Itoa(s.PID))
		}
		processes := newGrid("  PID", "NAME")
		for _, p := range d.Processes {
			processes.add("  "+strconv.Itoa(p.PID), p.Name)
		}
		for _, g := range []*grid{sessions, processes} {
			if err := g.write(w); err != nil {
				return err
			}
		}
	}
	return nil
}

func detailLines(d admin.Detail) [][2]string {
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return "unknown"
		}
		return t.Local().Format(time.DateTime) + ", " + age(time.Since(t)) + " ago"
	}
	quota := "none"
	if d.Limits.CPUQuotaMicros > 0 {
		quota = strconv.FormatInt(d.Limits.CPUQuotaMicros/1000, 10) + "%" // of 100 ms
	}
	lines := [][2]string{
		{"user", fmt.Sprintf("%s (uid %d)", d.User, d.UID)},
		{"state", string(d.State)},
		{"started", stamp(d.Started)},
		{"last used", stamp(d.Used)},
		{"idle", "frozen after " + d.FreezeAfter + ", stopped after " + d.StopAfter},
		{"image", d.Image + " (" + d.ImageID + ")"},
		{"memory", of(size(d.MemoryBytes), size(d.Limits.MemoryBytes)) + ", swap " + of(size(d.SwapBytes), size(d.Limits.SwapBytes))},
		{"oom kills", strconv.FormatInt(d.OOMKills, 10)},
		{"cpu", fmt.Sprintf("%v, weight %d, quota %s", (time.Duration(d.CPUMicros) * time.Microsecond).Round(time.Millisecond), d.Limits.CPUWeight, quota)},
		{"processes", of(strconv.FormatInt(d.Pids, 10), strconv.FormatInt(d.Limits.Pids, 10))},
		{"cgroup", d.Cgroup},
		{"init", fmt.Sprintf("pid %d", d.InitPID)},
		{"ids", fmt.Sprintf("%d to %d", d.RangeFirst, d.RangeFirst+65535)},
		{"layer", d.Layer},
		{"home inside", d.Home},
	}
	for _, u := range d.Unenforced {
		lines = append(lines, [2]string{"not enforced", u})
	}
	if d.SessionsNote != "" {
		lines = append(lines, [2]string{"no sessions", d.SessionsNote})
	}
	return lines
}
