package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/admin"
)

// maintenance shuts and opens the door.
func (a *app) maintenance() *cobra.Command {
	var message string
	var files bool
	on := a.jsonFlag(&cobra.Command{
		Use:   "on --message TEXT",
		Short: "Keep new sessions out",
		Long: `Refuse new sessions of all users with the message, with exit status 77. Sessions
that are open stay, and so do containers. With --allow-files, sftp and scp go on:
a command counts as that if it is nothing but sftp-server or scp with plain words
as arguments. Root has no container and logs in as ever.

It holds until "carrel maintenance off", also over a restart of carreld and of
the host. That it was on is no failure: the message is replaced.`,
		Example: "  carrel maintenance on --message 'back at noon'\n  carrel maintenance on --message 'the disks are full; fetch your files' --allow-files",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if message == "" || message != session.Printable(message, 256) {
				return &statusError{exitUsage, errors.New("maintenance on: --message wants one line of up to 256 printable bytes")}
			}
			m, err := a.client().Keep(c.Context(), admin.Maintenance{On: true, Message: message, AllowFiles: files})
			return a.sayMaintenance(m, err)
		},
	})
	on.Flags().StringVarP(&message, "message", "m", "", "`text` for whoever is refused")
	on.Flags().BoolVar(&files, "allow-files", false, "let sftp and scp go on")
	off := a.jsonFlag(&cobra.Command{
		Use:     "off",
		Short:   "Let new sessions in again",
		Long:    "Let new sessions in again. That none were kept out is no failure.",
		Example: "  carrel maintenance off",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.client().Keep(c.Context(), admin.Maintenance{})
			return a.sayMaintenance(m, err)
		},
	})
	status := a.jsonFlag(&cobra.Command{
		Use:     "status",
		Short:   "Say whether new sessions are kept out",
		Long:    "Say whether new sessions are kept out, since when, and with which message. The exit status does not say it.",
		Example: "  carrel maintenance status --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.client().Maintenance(c.Context())
			return a.sayMaintenance(m, err)
		},
	})
	return group("maintenance", "Keep new sessions out for a while", on, off, status)
}

func (a *app) sayMaintenance(m admin.Maintenance, err error) error {
	switch {
	case err != nil:
		return err
	case a.asJSON:
		return writeJSON(a.stdout, m)
	case !m.On:
		fmt.Fprintln(a.stdout, "maintenance is off: users log in as ever")
		return nil
	}
	files := ""
	if m.AllowFiles {
		files = ", except for file transfer"
	}
	fmt.Fprintf(a.stdout, "maintenance is on since %s: new sessions are refused%s\nmessage: %s\n", m.Since.Local().Format(time.DateTime), files, clean(m.Message))
	return nil
}
