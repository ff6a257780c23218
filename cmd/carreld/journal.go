package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
)

// logHandler returns where the log goes: to the journal with fields of its
// own if standard error ends there (JOURNAL_STREAM, systemd.exec(5)), or else
// as lines of text to standard error.
func logHandler() slog.Handler {
	if there, err := journal.StderrIsJournalStream(); err == nil && there {
		return &journalHandler{send: journal.Send}
	}
	return slog.NewTextHandler(os.Stderr, nil)
}

// A journalHandler writes each record as one entry of the journal. The message
// is the line that a person reads; each attribute is a field too, as in
//
//	journalctl -u carreld CARREL_USER=alice
type journalHandler struct {
	send   func(message string, p journal.Priority, fields map[string]string) error
	attrs  []slog.Attr // each with the groups in its key
	prefix string      // of the open groups, "a.b."
}

// Enabled reports whether anything of this level is logged.
func (h *journalHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelInfo
}

// Handle sends one record. What journald does not take goes to standard
// error, which it also reads.
func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool {
		attrs = flatten(attrs, h.prefix, a)
		return true
	})
	var line strings.Builder
	line.WriteString(r.Message)
	fields := map[string]string{"SYSLOG_IDENTIFIER": "carreld"}
	for _, a := range attrs {
		value := a.Value.String()
		fields[fieldName(a.Key)] = value
		if strings.ContainsFunc(value, func(c rune) bool { return c == '"' || c == '=' || unicode.IsSpace(c) || !unicode.IsPrint(c) }) {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&line, " %s=%s", a.Key, value)
	}
	if err := h.send(line.String(), priority(r.Level), fields); err != nil {
		fmt.Fprintln(os.Stderr, line.String())
	}
	return nil
}

// WithAttrs returns a handler that adds attrs to each record.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = with.attrs[:len(with.attrs):len(with.attrs)]
	for _, a := range attrs {
		with.attrs = flatten(with.attrs, h.prefix, a)
	}
	return &with
}

// WithGroup returns a handler that puts name before the keys that follow.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	with := *h
	if name != "" {
		with.prefix += name + "."
	}
	return &with
}

// flatten appends a, or what is in it if it is a group.
func flatten(list []slog.Attr, prefix string, a slog.Attr) []slog.Attr {
	a.Value = a.Value.Resolve()
	if a.Value.Kind() != slog.KindGroup {
		if a.Key == "" {
			return list
		}
		return append(list, slog.Attr{Key: prefix + a.Key, Value: a.Value})
	}
	if a.Key != "" {
		prefix += a.Key + "."
	}
	for _, inner := range a.Value.Group() {
		list = flatten(list, prefix, inner)
	}
	return list
}

// fieldName makes a key the name of a journal field: capitals, digits and
// underscores (systemd.journal-fields(7)), apart from everybody else's.
func fieldName(key string) string {
	return "CARREL_" + strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z':
			return c - 'a' + 'A'
		case 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			return c
		}
		return '_'
	}, key)
}

func priority(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	}
	return journal.PriInfo
}
