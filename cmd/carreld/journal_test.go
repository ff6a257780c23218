package main

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
)

func TestJournalHandler(t *testing.T) {
	type entry struct {
		Message  string
		Priority journal.Priority
		Fields   map[string]string
	}
	var got []entry
	log := slog.New(&journalHandler{send: func(message string, p journal.Priority, fields map[string]string) error {
		delete(fields, "SYSLOG_IDENTIFIER")
		got = append(got, entry{message, p, fields})
		return nil
	}})
	log.Debug("not at all")
	log.Info("session started", "user", "alice", "tty", true)
	log.Warn("login refused", "uid", 7, "err", errors.New("no\x1b[2J home\nFAKE=1"))
	with := log.With("sandbox", "u1").WithGroup("a").With("b", 1)
	with.Error("x", slog.Group("c", "d-e", 2), "f", "")
	log.Info("the twin of with", "user", "bob")
	want := []entry{
		{"session started user=alice tty=true", journal.PriInfo, map[string]string{"CARREL_USER": "alice", "CARREL_TTY": "true"}},
		{`login refused uid=7 err="no\x1b[2J home\nFAKE=1"`, journal.PriWarning,
			map[string]string{"CARREL_UID": "7", "CARREL_ERR": "no\x1b[2J home\nFAKE=1"}},
		{"x sandbox=u1 a.b=1 a.c.d-e=2 a.f=", journal.PriErr,
			map[string]string{"CARREL_SANDBOX": "u1", "CARREL_A_B": "1", "CARREL_A_C_D_E": "2", "CARREL_A_F": ""}},
		{"the twin of with user=bob", journal.PriInfo, map[string]string{"CARREL_USER": "bob"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}
