package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/admin"
)

// acting makes the command that does op to the containers of a choice of
// users.
func (a *app) acting(c *cobra.Command, op admin.Op, done string, prepare func(r *admin.Request, whom string) error) *cobra.Command {
	var who choice
	c.Args = who.args
	c.ValidArgsFunction = a.completeUsers
	c.RunE = func(c *cobra.Command, args []string) error {
		choose := a.containers
		if op == admin.OpReset || op == admin.OpRemove {
			choose = a.files
		}
		r, err := choose(c.Context(), who, args)
		if errors.Is(err, errNobody) {
			return nil
		}
		if err != nil {
			return err
		}
		r.Op = op
		if prepare != nil {
			if err := prepare(&r, who.String(args)); err != nil {
				return err
			}
		}
		return a.perform(c.Context(), r, func(s admin.Result) string {
			text := done + " " + clean(s.User)
			if op == admin.OpKill {
				text = fmt.Sprintf("%s %d processes of %s", done, s.Count, clean(s.User))
			}
			return text
		})
	}
	who.flags(c, "all of them")
	_ = c.RegisterFlagCompletionFunc("group", a.completeGroups)
	return a.jsonFlag(c)
}

// stop ends containers.
func (a *app) stop() *cobra.Command {
	return a.acting(&cobra.Command{
		Use:   "stop USER...",
		Short: "Stop the containers of users",
		Long: `Stop the containers of users, given by name or uid, with every session and
background process in them. Homes and what users changed in their file systems
stay. The next login starts a new container. That none was running is not a
failure.`,
		Example: "  carrel stop alice 1001\n  carrel stop --group students\n  carrel stop --all",
	}, admin.OpStop, "stopped", nil)
}

// freeze suspends containers.
func (a *app) freeze() *cobra.Command {
	return a.acting(&cobra.Command{
		Use:   "freeze USER...",
		Short: "Suspend the containers of users",
		Long: `Have every process in the containers of users stand still. They take no CPU time
and keep their memory; terminals stay open and show nothing. New logins are
refused with a sentence until "carrel thaw", unlike with containers that were
frozen because nobody used them, which the next login thaws.`,
		Example: "  carrel freeze alice\n  carrel freeze --group students",
	}, admin.OpFreeze, "froze", nil)
}

// thaw lets containers run on.
func (a *app) thaw() *cobra.Command {
	return a.acting(&cobra.Command{
		Use:   "thaw USER...",
		Short: "Let frozen containers run on",
		Long: `Let the containers of users run on, whoever froze them. That one was not frozen
is no failure.`,
		Example: "  carrel thaw alice\n  carrel thaw --all",
	}, admin.OpThaw, "thawed", nil)
}

// kill signals what runs in containers.
func (a *app) kill() *cobra.Command {
	var signal, id string
	c := a.acting(&cobra.Command{
		Use:   "kill USER...",
		Short: "Send a signal to the processes of users",
		Long: `Send a signal to every process in the containers of users, or to those of one
session, which "carrel inspect" lists: its background processes included. The
container stays; "carrel stop" ends it. A frozen container gets the signal when
it is thawed.`,
		Example: "  carrel kill alice\n  carrel kill --signal KILL --group students\n  carrel kill --signal HUP --session 1763712345678901234 alice",
	}, admin.OpKill, "signalled", func(r *admin.Request, _ string) error {
		n, err := parseSignal(signal)
		if err != nil {
			return err
		}
		r.Signal = n
		if id != "" {
			if r.Session, err = strconv.ParseUint(strings.TrimPrefix(id, "s"), 10, 64); err != nil || r.Session == 0 {
				return &statusError{exitUsage, fmt.Errorf("kill: %q is not the id of a session", id)}
			}
			if r.All || len(r.Users) != 1 {
				return &statusError{exitUsage, errors.New("kill: a session is one user's")}
			}
		}
		return nil
	})
	c.Flags().StringVarP(&signal, "signal", "s", "TERM", "`signal`, by name or number")
	c.Flags().StringVar(&id, "session", "", "only the processes of the session `ID`")
	_ = c.RegisterFlagCompletionFunc("signal", cobra.FixedCompletions(
		[]string{"TERM", "KILL", "HUP", "INT", "QUIT", "STOP", "CONT", "USR1", "USR2"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// parseSignal takes "TERM", "SIGTERM", "term" or "15".
func parseSignal(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		n = int(unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")))
	}
	if n < 1 || n > 64 {
		return 0, &statusError{exitUsage, fmt.Errorf("kill: %q is not a signal", s)}
	}
	return n, nil
}

// reset gives users a fresh layer.
func (a *app) reset() *cobra.Command {
	var yes bool
	c := a.acting(&cobra.Command{
		Use:   "reset USER...",
		Short: "Give users a fresh root file system",
		Long: `Stop the containers of users and discard what they changed outside their homes.
The next login starts from the image as it is. Homes, ids and policy stay.

It cannot be undone: it asks on a terminal, and wants --yes elsewhere.

Users may reset their own container, from inside or over their own login: "carrel
reset" says what that means, and "carrel reset --yes" does it.`,
		Example: "  carrel reset alice\n  carrel reset --yes --group students",
	}, admin.OpReset, "reset", func(r *admin.Request, whom string) error {
		return a.confirm(yes, r.Op, whom, "discard what %s changed outside the home")
	})
	yesFlag(c, &yes)
	// Without a choice of users, who must be root, it is the user's own.
	args, run := c.Args, c.RunE
	mine := func(c *cobra.Command, words []string) bool {
		return len(words) == 0 && os.Geteuid() != 0 && !c.Flags().Changed("all") && !c.Flags().Changed("group")
	}
	c.Args = func(c *cobra.Command, words []string) error {
		if mine(c, words) {
			return nil
		}
		return args(c, words)
	}
	c.RunE = func(c *cobra.Command, words []string) error {
		if !mine(c, words) {
			return run(c, words)
		}
		if yes {
			return a.askOwn("carrel reset --yes")
		}
		return a.askOwn("carrel reset")
	}
	return c
}

// remove deletes what users have.
func (a *app) remove() *cobra.Command {
	var yes, home bool
	c := a.acting(&cobra.Command{
		Use:   "rm USER...",
		Short: "Delete the containers of users",
		Long: `Stop the containers of users and delete their root file systems; with --home the
private homes too, and with them all that the users have here. A home that is the
host's own (home = "host") is never touched. Users are accounts, or uids whose
account is gone. Their ids stay reserved for ever, so that no file that is left
anywhere changes its owner.

It cannot be undone: it asks on a terminal, and wants --yes elsewhere.`,
		Example: "  carrel rm alice\n  carrel rm --yes --home 1007",
	}, admin.OpRemove, "removed", func(r *admin.Request, whom string) error {
		r.Home = home
		what := "delete the root file system of %s"
		if home {
			what = "delete the root file system and the HOME of %s"
		}
		return a.confirm(yes, r.Op, whom, what)
	})
	yesFlag(c, &yes)
	c.Flags().BoolVar(&home, "home", false, "delete the private homes, too")
	return c
}

func yesFlag(c *cobra.Command, yes *bool) {
	c.Flags().BoolVarP(yes, "yes", "y", false, "do not ask")
}

// confirm asks the person at the terminal. Where there is none, only --yes
// helps.
func (a *app) confirm(yes bool, op admin.Op, whom, what string) error {
	if yes {
		return nil
	}
	question := fmt.Sprintf(what, clean(whom))
	in, ok := a.stdin.(*os.File)
	if !ok || !isTerminal(in) {
		return &statusError{exitUsage, fmt.Errorf("%s: this would %s; write --yes", op, question)}
	}
	fmt.Fprintf(a.stderr, "%s? [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &statusError{exitFailed, errors.New("nothing was done")}
}

// wall writes to the open terminals.
func (a *app) wall() *cobra.Command {
	var who choice
	var users []string
	c := &cobra.Command{
		Use:   "wall MESSAGE...",
		Short: "Write a line to the open terminals of users",
		Long: `Write a line to every open terminal in the containers of all users, or of those
chosen. It reaches terminals that refuse messages of other users (mesg(1)), but
not those of frozen containers. The words of the message are joined by spaces;
what is not printable becomes "?".`,
		Example: "  carrel wall 'this host restarts at noon'\n  carrel wall --group students please log out",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := who.optional(c, users); err != nil {
				return err
			}
			r, err := a.containers(c.Context(), who, users)
			if errors.Is(err, errNobody) {
				return nil
			}
			if err != nil {
				return err
			}
			r.Op, r.Message = admin.OpWall, session.Printable(strings.Join(args, " "), session.MaxTell)
			if r.Message == "" {
				return &statusError{exitUsage, errors.New("wall: the message is empty")}
			}
			return a.perform(c.Context(), r, func(s admin.Result) string {
				return fmt.Sprintf("told %s on %d terminals", clean(s.User), s.Count)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.Flags().StringSliceVar(&users, "user", nil, "`USER` by name or uid; may be given more than once")
	who.flags(c, "all users, as without any choice")
	_ = c.RegisterFlagCompletionFunc("user", a.completeUsers)
	_ = c.RegisterFlagCompletionFunc("group", a.completeGroups)
	return a.jsonFlag(c)
}

// untilInterrupted makes Ctrl-C the normal end of a command that runs until then.
func untilInterrupted(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) || errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}
