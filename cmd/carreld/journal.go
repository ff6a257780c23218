package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// logHandler returns what writes the log, and waits for whoever reads it: to the
// journal with fields of its own if standard error ends there (JOURNAL_STREAM,
// systemd.exec(5)), or else as lines of text to standard error.
func logHandler() slog.Handler {
	if there, err := journal.StderrIsJournalStream(); err == nil && there {
		if s, err := openJournal("/run/systemd/journal/socket"); err == nil {
			return &journalHandler{send: s.send}
		}
	}
	return slog.NewTextHandler(os.Stderr, nil)
}

const (
	// logQueueLen is a few seconds of a busy host, and some hundred kilobytes.
	logQueueLen = 1024
	// logFlush is how long carreld waits at its end for who reads the log.
	logFlush = time.Second
)

// A logQueue is between those who log and a handler that may block: nobody's
// login waits for the log. When it is full, records are dropped until it is half
// empty; then one record says, in their place, how many.
type logQueue struct {
	next    slog.Handler
	entries chan func()   // each writes one record
	done    chan struct{} // closed when all is written

	mu     sync.Mutex // held by whoever sends to entries
	lost   int        // records dropped and not told of
	closed bool
}

func newLogQueue(next slog.Handler) *logQueue {
	q := &logQueue{next: next, entries: make(chan func(), logQueueLen), done: make(chan struct{})}
	go q.write()
	return q
}

func (q *logQueue) write() {
	defer close(q.done)
	for entry := range q.entries {
		entry()
		if len(q.entries) == 0 { // perhaps nobody logs any more
			q.mu.Lock()
			q.tellLost()
			q.mu.Unlock()
		}
	}
}

// put has entry called later, or drops it. It never blocks.
func (q *logQueue) put(entry func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	room := cap(q.entries) - len(q.entries)
	if q.closed || room == 0 || q.lost > 0 && room < cap(q.entries)/2 {
		q.lost++
		return
	}
	q.tellLost()
	q.entries <- entry
}

// tellLost queues a record of those that were dropped. The caller has mu, and
// there is room.
func (q *logQueue) tellLost() {
	if q.lost == 0 || q.closed {
		return
	}
	r := slog.NewRecord(time.Now(), slog.LevelWarn, fmt.Sprintf("%d log records were lost", q.lost), 0)
	q.lost = 0
	q.entries <- func() { _ = q.next.Handle(context.Background(), r) }
}

// flush waits until all is written, but no longer than limit. What is logged
// later is dropped.
func (q *logQueue) flush(limit time.Duration) {
	q.mu.Lock()
	if !q.closed {
		if len(q.entries) < cap(q.entries) {
			q.tellLost()
		}
		q.closed = true
		close(q.entries)
	}
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-time.After(limit):
	}
}

// handler returns the handler whose records go through the queue.
func (q *logQueue) handler() slog.Handler { return &queueHandler{q, q.next} }

type queueHandler struct {
	queue *logQueue
	next  slog.Handler // the queue's, with attributes and groups
}

// Enabled is that of the handler behind the queue.
func (h *queueHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle queues r with its values as they are now.
func (h *queueHandler) Handle(ctx context.Context, r slog.Record) error {
	frozen := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		frozen.AddAttrs(freeze(a))
		return true
	})
	ctx = context.WithoutCancel(ctx)
	h.queue.put(func() { _ = h.next.Handle(ctx, frozen) })
	return nil
}

// WithAttrs returns a handler that adds attrs to each record.
func (h *queueHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	frozen := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		frozen[i] = freeze(a)
	}
	return &queueHandler{h.queue, h.next.WithAttrs(frozen)}
}

// WithGroup returns a handler that puts what follows in a group.
func (h *queueHandler) WithGroup(name string) slog.Handler {
	return &queueHandler{h.queue, h.next.WithGroup(name)}
}

// freeze returns a as text where it is a value that its owner may change.
func freeze(a slog.Attr) slog.Attr {
	a.Value = a.Value.Resolve()
	switch a.Value.Kind() {
	case slog.KindAny:
		if v := a.Value.Any(); v != nil { // what has neither key nor value is left out
			a.Value = slog.StringValue(fmt.Sprintf("%+v", v)) // as slog.TextHandler has it
		}
	case slog.KindGroup:
		var frozen []slog.Attr
		for _, inner := range a.Value.Group() {
			frozen = append(frozen, freeze(inner))
		}
		a.Value = slog.GroupValue(frozen...)
	}
	return a
}

// A journalSocket sends to journald. It blocks in the kernel while journald does
// not read: journal.Send, whose socket does not block and is not connected, is
// told by epoll(7) after each try that it may try again, and takes a whole CPU.
type journalSocket struct {
	fd   int
	addr unix.SockaddrUnix
}

func openJournal(path string) (*journalSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &journalSocket{fd: fd, addr: unix.SockaddrUnix{Name: path}}, nil
}

// send sends one entry in journald's own protocol
// (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
func (s *journalSocket) send(message string, p journal.Priority, fields map[string]string) error {
	entry := appendField(nil, "MESSAGE", message)
	entry = appendField(entry, "PRIORITY", strconv.Itoa(int(p)))
	for name, value := range fields {
		entry = appendField(entry, name, value)
	}
	for {
		err := unix.Sendto(s.fd, entry, unix.MSG_NOSIGNAL, &s.addr)
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("sendto", err)
		}
	}
}

func appendField(entry []byte, name, value string) []byte {
	entry = append(entry, name...)
	if strings.Contains(value, "\n") {
		entry = append(entry, '\n')
		entry = binary.LittleEndian.AppendUint64(entry, uint64(len(value)))
	} else {
		entry = append(entry, '=')
	}
	return append(append(entry, value...), '\n')
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
	if !r.Time.IsZero() { // journald's own is when it read the entry
		fields["SYSLOG_TIMESTAMP"] = r.Time.Format(time.RFC3339Nano)
	}
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
