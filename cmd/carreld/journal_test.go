package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/slogtest"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
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
		if at, err := time.Parse(time.RFC3339Nano, fields["SYSLOG_TIMESTAMP"]); err != nil || time.Since(at) > time.Minute {
			t.Errorf("logged at %v, %v", at, err)
		}
		delete(fields, "SYSLOG_TIMESTAMP")
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

func TestLogQueueHandler(t *testing.T) {
	var b bytes.Buffer
	var q *logQueue
	slogtest.Run(t, func(*testing.T) slog.Handler {
		b.Reset()
		q = newLogQueue(slog.NewJSONHandler(&b, nil))
		return q.handler()
	}, func(t *testing.T) map[string]any {
		q.flush(time.Minute)
		var got map[string]any
		if err := json.Unmarshal(b.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		return got
	})
}

// TestLogQueueValues changes what was logged while it is in the queue.
func TestLogQueueValues(t *testing.T) {
	w := newGate()
	q := newLogQueue(slog.NewTextHandler(w, nil))
	list, list2 := []string{"then"}, []string{"then"}
	log := slog.New(q.handler()).With("with", list2)
	log.Info("x", "list", list, "err", errors.New("e"), slog.Group("g", "list", list, "n", 1), "nil", nil)
	list[0], list2[0] = "now", "now"
	close(w.open)
	q.flush(time.Minute)
	const want = "level=INFO msg=x with=[then] list=[then] err=e g.list=[then] g.n=1 nil=<nil>\n"
	if got := w.b.String(); !strings.HasSuffix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A gate is a writer that blocks until it is open.
type gate struct {
	b    strings.Builder
	open chan struct{}
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.b.Write(p)
}

func TestLogQueueFull(t *testing.T) {
	const logged = 5000
	w := newGate()
	q := newLogQueue(slog.NewTextHandler(w, nil))
	log := slog.New(q.handler())
	for i := range logged {
		log.Info("m", "i", i)
	}
	q.flush(time.Millisecond) // does not wait for ever
	select {
	case <-q.done:
		t.Fatal("BUG: nothing blocks")
	default:
	}
	closed := time.Now()
	close(w.open)
	<-q.done
	lines := strings.Split(strings.TrimSpace(w.b.String()), "\n")
	if last := len(lines) - 1; strings.HasSuffix(lines[last], ` records were lost"`) {
		lines = lines[:last] // flush had room for it
	}
	for i, line := range lines {
		var at string
		if _, err := fmt.Sscanf(line, "time=%s", &at); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if then, err := time.Parse("2006-01-02T15:04:05.999Z07:00", at); err != nil || then.After(closed) {
			t.Errorf("%q is of %v, %v; the writer moved at %v", line, then, err, closed)
		}
		if !strings.HasSuffix(line, fmt.Sprintf("msg=m i=%d", i)) {
			t.Fatalf("line %d: %q", i, line)
		}
	}
	if len(lines) < logQueueLen {
		t.Errorf("%d records were kept, want %d", len(lines), logQueueLen)
	}
}

// TestLogQueueBlocks is the twin: without the queue, who logs waits.
func TestLogQueueBlocks(t *testing.T) {
	w := newGate()
	done := make(chan struct{})
	go func() {
		slog.New(slog.NewTextHandler(w, nil)).Info("m")
		close(done)
	}()
	select {
	case <-done:
		t.Error("it does not block")
	case <-time.After(100 * time.Millisecond):
	}
	close(w.open)
	<-done
}

// TestLogQueueLost has every record written or counted, in one place for each
// time that the queue was full, whether somebody logs afterwards or not.
func TestLogQueueLost(t *testing.T) {
	var kept, lost []int
	next, wait := 0, make(chan struct{})
	q := newLogQueue(&journalHandler{send: func(message string, p journal.Priority, _ map[string]string) error {
		<-wait
		var i, n int
		if _, err := fmt.Sscanf(message, "m i=%d", &i); err == nil {
			if i != next {
				t.Errorf("record %d came where %d was due", i, next)
			}
			kept = append(kept, i)
			next = i + 1
		} else if _, err := fmt.Sscanf(message, "%d log records were lost", &n); err == nil && p == journal.PriWarning {
			lost = append(lost, n)
			next += n
		} else {
			t.Errorf("message %q", message)
		}
		return nil
	}})
	log := slog.New(q.handler())
	logged := 0
	fill := func() {
		for range 3 * logQueueLen {
			log.Info("m", "i", logged)
			logged++
		}
	}
	fill()
	for range logQueueLen - 10 { // all but what is in the queue
		wait <- struct{}{}
	}
	fill()
	close(wait)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		q.mu.Lock()
		told := q.lost == 0 && len(q.entries) == 0
		q.mu.Unlock()
		if told {
			break
		}
	}
	q.flush(time.Minute)
	if next != logged || len(lost) != 2 {
		t.Errorf("%d kept and %v lost of %d", len(kept), lost, logged)
	}
}

func listenJournal(t *testing.T) (*net.UnixConn, *journalSocket) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return conn, s
}

func TestJournalSocket(t *testing.T) {
	conn, s := listenJournal(t)
	if err := s.send("two\nlines", journal.PriErr, map[string]string{"CARREL_X": "a=b"}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1000)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	size := binary.LittleEndian.AppendUint64(nil, 9)
	if diff := cmp.Diff("MESSAGE\n"+string(size)+"two\nlines\nPRIORITY=3\nCARREL_X=a=b\n", string(buf[:n])); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	conn.Close()
	if err := s.send("x", journal.PriErr, nil); !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
		t.Errorf("send to nobody: %v", err)
	}
}

// TestJournalStuck has a journald that does not read: who logs goes on, and
// waiting for it takes no CPU.
func TestJournalStuck(t *testing.T) {
	conn, s := listenJournal(t)
	q := newLogQueue(&journalHandler{send: s.send})
	log := slog.New(q.handler())
	const logged = 20_000
	for i := range logged {
		log.Info("m", "i", i)
	}
	before := cpu(t)
	time.Sleep(500 * time.Millisecond)
	if took := cpu(t) - before; took > busy {
		t.Errorf("took %v of the CPU while it waited", took)
	}
	got := 0
	buf := make([]byte, 1000)
	for got < logged {
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("after %d of %d: %v", got, logged, err)
		}
		lost := 1
		_, _ = fmt.Sscanf(string(buf[:n]), "MESSAGE=%d log records were lost", &lost)
		got += lost
	}
	if got != logged {
		t.Errorf("%d records kept or told lost; want %d", got, logged)
	}
	q.flush(time.Minute)
}

// TestJournalStuckBusy is the twin: a socket as that of journal.Send is busy.
func TestJournalStuckBusy(t *testing.T) {
	conn, s := listenJournal(t)
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for err := error(nil); err == nil; {
			_, err = c.WriteTo([]byte("x"), &net.UnixAddr{Name: s.addr.Name, Net: "unixgram"})
		}
	}()
	before, deadline := cpu(t), time.Now().Add(30*time.Second)
	for cpu(t)-before <= busy {
		if time.Now().After(deadline) {
			t.Fatal("it waits without the CPU")
		}
		time.Sleep(10 * time.Millisecond)
	}
	conn.Close()
	c.Close()
	<-ended
}

const busy = 200 * time.Millisecond

// cpu returns what this process has had of it.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
