package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/session"
)

// enter becomes the user and runs carrelsh as their login shell.
func (a *app) enter() *cobra.Command {
	var carrelsh, text string
	c := &cobra.Command{
		Use:   "enter USER",
		Short: "Open a session in a user's container (root)",
		Long: `Open a session in a user's container, as if the user logged in on this
terminal: with their ids and groups and a clean environment, of which only TERM,
COLORTERM, LANG, LC_* and TZ come along. carreld decides as for any login. The
exit status is that of carrelsh(1).

The session is the user's. What you type there is typed into a machine that the
user controls.`,
		Example:           "  carrel enter alice\n  carrel enter alice -c 'df -h ~'",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeUsers,
		RunE: func(c *cobra.Command, args []string) error {
			if os.Geteuid() != 0 {
				return errNotRoot
			}
			user, err := account(c.Context(), args[0])
			if err != nil {
				return err
			}
			argv := []string{"-carrelsh", "--socket", filepath.Join(a.runDir, "login.sock")}
			if c.Flags().Changed("command") {
				argv = append(argv, "-c", text)
			}
			return become(user, beside(carrelsh, "carrelsh"), argv, a.environ)
		},
	}
	c.Flags().StringVar(&carrelsh, "carrelsh", "", "absolute `path` of carrelsh (default: beside carrel)")
	c.Flags().StringVarP(&text, "command", "c", "", "run this `command` instead of a login shell")
	return c
}

// become gives up root for good and executes path. It returns only an error,
// and then the process may have given up root already.
//
// The order is that of login(1): groups while we may, then gid, then uid. Each
// of the calls changes all threads, and the result is checked, as a failed
// setuid(2) after which one goes on is a classic (CVE-2000-0506).
func become(user accounts.Account, path string, argv, environ []string) error {
	if user.UID == 0 {
		return &statusError{exitUsage, errors.New("enter: root has no container")}
	}
	if !filepath.IsAbs(path) {
		return &statusError{exitUsage, fmt.Errorf("enter: --carrelsh %q is not an absolute path", path)}
	}
	env := append(session.FilterEnv(environ),
		"HOME="+user.Home, "USER="+user.Name, "LOGNAME="+user.Name, "SHELL="+path, "PATH=/usr/local/bin:/usr/bin:/bin")
	gids := make([]int, len(user.Groups))
	for i, g := range user.Groups {
		gids[i] = int(g.GID)
	}
	uid, gid := int(user.UID), int(user.GID)
	for _, step := range []struct {
		call string
		do   func() error
	}{
		// What root's shell had open is not the user's.
		{"close_range", func() error { return unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) }},
		{"chdir", func() error { return os.Chdir("/") }},
		{"setgroups", func() error { return syscall.Setgroups(gids) }},
		{"setresgid", func() error { return syscall.Setresgid(gid, gid, gid) }},
		{"setresuid", func() error { return syscall.Setresuid(uid, uid, uid) }},
		{"check", func() error { return checkDropped(uid, gid) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("become %q: %w", user.Name, os.NewSyscallError(step.call, err))
		}
	}
	syscall.Umask(0o022)
	return &os.PathError{Op: "exec", Path: path, Err: syscall.Exec(path, argv, env)}
}

// checkDropped makes sure that there is no way back.
func checkDropped(uid, gid int) error {
	if os.Getuid() != uid || os.Geteuid() != uid || os.Getgid() != gid || os.Getegid() != gid {
		return errors.New("ids are not the user's")
	}
	if syscall.Setresuid(0, 0, 0) == nil {
		return errors.New("root can be had back")
	}
	return nil
}
