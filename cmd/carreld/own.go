package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/broker"
	"github.com/carrel-sh/carrel/session/events"
	"github.com/carrel-sh/carrel/session/keeper"
)

// own answers a user about their own container, for broker.Broker.Own.
func (b *backend) own(ctx context.Context, account accounts.Account, c broker.OwnCommand) (text string, status int) {
	box := b.boxes.Find(account.UID)
	if box != nil && box.User != account.Name {
		box = nil // a former owner's of the uid; the next login replaces it
	}
	switch c.Name {
	case config.SelfReset:
		return b.ownReset(ctx, account, c.Yes)
	case config.SelfSessions:
		return b.ownSessions(ctx, box)
	case config.SelfStatus:
		return b.ownStatus(ctx, box), 0
	}
	return "", session.Internal.Status()
}

const noContainer = "You have no container now; your next login starts one.\n"

func (b *backend) ownStatus(ctx context.Context, c *sandbox.Container) string {
	if c == nil {
		return noContainer
	}
	d := describe(ctx, c, false)
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "state\t%s, since %s\n", d.State, d.Started.Local().Format(time.DateTime))
	fmt.Fprintf(w, "image\t%s\n", session.Printable(d.Image, 128))
	fmt.Fprintf(w, "sessions\t%d\n", d.Sessions)
	fmt.Fprintf(w, "memory\t%s\n", within(keeper.Amount(d.MemoryBytes), keeper.Amount(d.Limits.MemoryBytes), d.Limits.MemoryBytes))
	fmt.Fprintf(w, "processes\t%s\n", within(fmt.Sprint(d.Pids), fmt.Sprint(d.Limits.Pids), d.Limits.Pids))
	fmt.Fprintf(w, "cpu time\t%v\n", (time.Duration(d.CPUMicros) * time.Microsecond).Round(time.Millisecond))
	fmt.Fprintf(w, "when idle\tfrozen after %s, stopped after %s\n", config.FormatIdle(c.Idle.Freeze), config.FormatIdle(c.Idle.Stop))
	w.Flush()
	return out.String()
}

// within returns "used of limit", or used alone without a limit.
func within(used, limit string, n int64) string {
	if n == 0 {
		return used
	}
	return used + " of " + limit
}

func (b *backend) ownSessions(ctx context.Context, c *sandbox.Container) (string, int) {
	if c == nil {
		return noContainer, 0
	}
	b.keeper.Awake(c.UID) // a frozen init does not answer
	live, err := keeper.Sessions(ctx, c)
	if errors.Is(err, keeper.ErrFrozen) {
		return "Your container has been suspended; please ask the administrator.\n", 1
	}
	if err != nil {
		b.broker.Logger.Error("sessions", "user", c.User, "err", err)
		return "Your container does not answer. \"carrel reset\" gives you a new one.\n", session.NoAnswer.Status()
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SINCE\tTERMINAL\tPID")
	for _, s := range live {
		terminal := s.Terminal
		if terminal == "" {
			terminal = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\n", time.UnixMilli(int64(s.Started)).Local().Format(time.DateTime), terminal, s.PID)
	}
	w.Flush()
	return out.String(), 0
}

func (b *backend) ownReset(ctx context.Context, account accounts.Account, yes bool) (string, int) {
	// A login would be refused, and must not become one that works.
	if c := b.boxes.Find(account.UID); c != nil && c.Paused() == sandbox.Suspended {
		return "carrel: " + broker.SuspendedSentence + "\n", session.Refused.Status()
	}
	if owner := b.boxes.Owner(account.UID); owner != account.Name {
		return noContainer, 0 // a former owner's files are put aside for root, not lost
	}
	if !yes {
		return "This ends all your sessions and programs, and gives you a fresh root file system.\n" +
			"What you installed or changed outside your home is lost; your home stays.\n" +
			"To go on: carrel reset --yes\n", 1
	}
	err := b.discard(ctx, account.UID, false, events.Event{Kind: events.Reset, User: account.Name, Detail: "by the user"})
	if err != nil {
		b.broker.Logger.Error("reset", "user", account.Name, "err", err)
		return "Your container could not be reset; the administrator finds the cause in the log.\n", session.Internal.Status()
	}
	return "Done: your next login starts with a fresh root file system.\n", 0
}
