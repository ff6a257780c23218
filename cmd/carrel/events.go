package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/session/admin"
	"github.com/carrel-sh/carrel/session/events"
)

// A window is which events are shown.
type window struct {
	since  string
	kinds  []string
	follow bool
}

func (w *window) flags(c *cobra.Command) {
	c.Flags().StringVar(&w.since, "since", "", "only what happened since a `TIME`: \"2026-11-21 08:00:00\", or as \"90m\", \"2h\" or \"7d\" before now")
	c.Flags().StringSliceVar(&w.kinds, "event", nil, "only events of this `KIND`; may be given more than once")
	c.Flags().BoolVarP(&w.follow, "follow", "f", false, "go on with what happens, until interrupted")
	var kinds []string
	for _, k := range events.Kinds() {
		kinds = append(kinds, string(k))
	}
	_ = c.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(kinds, cobra.ShellCompDirectiveNoFileComp))
}

const eventHelp = `
The events are: start, stop (of a container), login, logout, refused, oom
(processes were killed for memory), pids (a fork failed for the number of
processes), freeze, thaw, kill, reset, remove, wall, home (it could not be used),
maintenance, and lost (there were too many). No event holds what a user typed.

carreld keeps them in events.jsonl of its state directory, at most 32 MiB in four
files; its own log on standard error says the same and goes wherever the service
manager keeps logs. With --json each event is a line.`

// events shows what happened, to everybody or to some.
func (a *app) events() *cobra.Command {
	var who choice
	var which window
	c := &cobra.Command{
		Use:               "events [USER...]",
		Short:             "Show what happens to containers",
		Long:              "Show what happened to the containers of all users, or of those named, oldest first.\n" + eventHelp,
		Example:           "  carrel events --since 1h\n  carrel events --follow --json\n  carrel events --event oom --event refused --group students",
		Args:              who.optional,
		ValidArgsFunction: a.completeUsers,
		RunE:              func(c *cobra.Command, args []string) error { return a.showEvents(c.Context(), who, args, which) },
	}
	who.flags(c, "all users, as without any choice")
	which.flags(c)
	_ = c.RegisterFlagCompletionFunc("group", a.completeGroups)
	return a.jsonFlag(c)
}

// logs shows what happened to some users.
func (a *app) logs() *cobra.Command {
	var who choice
	var which window
	c := &cobra.Command{
		Use:   "logs USER...",
		Short: "Show what carreld noted about users",
		Long: `Show what carreld noted about users, given by name or uid, oldest first: their
logins and logouts, refusals and why, and what happened to their containers.
` + eventHelp,
		Example:           "  carrel logs alice\n  carrel logs --since 7d --event refused 1001",
		Args:              who.args,
		ValidArgsFunction: a.completeUsers,
		RunE:              func(c *cobra.Command, args []string) error { return a.showEvents(c.Context(), who, args, which) },
	}
	who.flags(c, "all users")
	which.flags(c)
	_ = c.RegisterFlagCompletionFunc("group", a.completeGroups)
	return a.jsonFlag(c)
}

// showEvents prints what carreld hands over.
func (a *app) showEvents(ctx context.Context, who choice, args []string, which window) error {
	query := admin.EventQuery{Follow: which.follow}
	for _, k := range which.kinds {
		if !events.Known(events.Kind(k)) {
			return &statusError{exitUsage, fmt.Errorf("%q is not an event", k)}
		}
		query.Kinds = append(query.Kinds, events.Kind(k))
	}
	if which.since != "" {
		since, err := parseSince(which.since, time.Now())
		if err != nil {
			return err
		}
		query.Since = since
	}
	r, err := a.files(ctx, who, args)
	if errors.Is(err, errNobody) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, user := range r.Users {
		uid, err := strconv.ParseUint(user, 10, 32)
		if err != nil {
			return err
		}
		query.UIDs = append(query.UIDs, uint32(uid))
	}
	return untilInterrupted(ctx, a.client().Events(ctx, query, a.printEvent))
}

func (a *app) printEvent(e events.Event) error {
	if a.asJSON {
		_, err := a.stdout.Write(e.Line())
		return err
	}
	who := e.User
	if who == "" && e.UID != 0 {
		who = strconv.FormatUint(uint64(e.UID), 10)
	}
	if who == "" {
		who = "-"
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %-12s %s\n", e.Time.Local().Format(time.DateTime), clean(who), clean(e.String()))
	return err
}

// parseSince takes a time of day and date, or a time before now.
func parseSince(s string, now time.Time) (time.Time, error) {
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04", time.DateOnly, time.RFC3339} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	if n := len(s) - 1; n > 0 && s[n] == 'd' {
		if days, err := strconv.ParseUint(s[:n], 10, 16); err == nil {
			return now.AddDate(0, 0, -int(days)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, &statusError{exitUsage, fmt.Errorf("--since %q is no time; write it as \"2026-11-21 08:00:00\", \"90m\" or \"7d\"", s)}
}
