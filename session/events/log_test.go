package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func open(t *testing.T, maxBytes int64) *Log {
	t.Helper()
	l, err := Open(filepath.Join(t.TempDir(), "events"), maxBytes, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func all(t *testing.T, l *Log) []Event {
	t.Helper()
	var list []Event
	if err := l.Read(func(e Event) error { list = append(list, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	l := open(t, 0)
	at := time.Date(2026, 11, 21, 6, 0, 0, 5e6, time.UTC)
	want := []Event{
		{Time: at, Kind: Login, User: "alice", UID: 1000, Session: 1<<63 + 5, Detail: "terminal"},
		{Time: at, Kind: Maintenance, Detail: "on"},
	}
	for _, e := range want {
		l.Add(e)
	}
	l.Close()
	if diff := cmp.Diff(want, all(t, l)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	info, err := os.Stat(l.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

// TestHarmless: whatever a directory service or a user wrote, the file is
// printable ASCII with one line for each event.
func TestHarmless(t *testing.T) {
	l := open(t, 0)
	l.Add(Event{Kind: Refused, User: "e\x1b]0;x\a\u202e\U0001F600\xff", Detail: "a\nb\u009b" + strings.Repeat("ü", 600)})
	l.Close()
	text, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range text {
		if (b < ' ' || b > '~') && (b != '\n' || i != len(text)-1) {
			t.Fatalf("byte %#x at %d of %q", b, i, text)
		}
	}
	got := all(t, l)
	if len(got) != 1 || got[0].User != "e?]0;x??\U0001F600?" || len(got[0].Detail) > maxDetail {
		t.Errorf("read back %+v", got)
	}
}

func TestRotation(t *testing.T) {
	l := open(t, 4096)
	for i := range 400 {
		l.Add(Event{Kind: Login, UID: uint32(i + 1), Detail: strings.Repeat("x", 50)})
		if i%10 == 0 {
			time.Sleep(time.Millisecond) // so that there are several writes
		}
	}
	l.Close()
	files, err := filepath.Glob(l.path + "*")
	if err != nil || len(files) > keep+1 {
		t.Errorf("files %v, %v; want at most %d", files, err, keep+1)
	}
	got := all(t, l)
	if len(got) == 0 || len(got) >= 400 || got[len(got)-1].UID != 400 {
		t.Fatalf("%d events are kept; want the newest", len(got))
	}
	for i := range got {
		if got[i].UID != uint32(400-len(got)+i+1) {
			t.Fatalf("event %d is number %d: out of order", i, got[i].UID)
		}
	}
}

// TestTornLine: what a power cut left of a line costs that line.
func TestTornLine(t *testing.T) {
	l := open(t, 0)
	if err := os.WriteFile(l.path, []byte(`{"time":"2026-11-21T06:00:00Z","event":"stop","uid":1}`+"\n"+`{"time":"20`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Add(Event{Kind: Start, UID: 2})
	l.Close()
	if got := all(t, l); len(got) != 2 || got[0].Kind != Stop || got[1].Kind != Start {
		t.Errorf("read %+v", got)
	}
}

func TestFollow(t *testing.T) {
	l := open(t, 0)
	l.Add(Event{Kind: Start, UID: 1})
	l.Add(Event{Kind: Start, UID: 1}) // as often as it happened
	ctx, cancel := context.WithCancel(t.Context())
	begun, got := make(chan struct{}), make(chan Event)
	done := make(chan error)
	go func() {
		done <- l.Tail(ctx, func() error { close(begun); return nil }, func(e Event) error { got <- e; return nil })
	}()
	for range 2 { // though they may not have been written yet
		if e := <-got; e.UID != 1 {
			t.Errorf("before following: %+v", e)
		}
	}
	<-begun
	old := time.Now().Add(-time.Second) // as word of a logout comes late
	l.Add(Event{Time: old, Kind: Stop, UID: 2})
	if e := <-got; e.UID != 2 || !e.Time.Equal(old) {
		t.Errorf("followed %+v", e)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Follow = %v; want nil after its context ended", err)
	}
	// One that takes nothing is sent away and holds nobody up.
	slow := make(chan error)
	begun = make(chan struct{})
	stuck := make(chan struct{})
	go func() {
		slow <- l.Tail(t.Context(), func() error { close(begun); return nil }, func(e Event) error {
			if e.Kind == Login {
				<-stuck
			}
			return nil
		})
	}()
	<-begun
	for i := range behind + 2 {
		l.Add(Event{Kind: Login, Detail: fmt.Sprint(i)})
	}
	close(stuck)
	if err := <-slow; !errors.Is(err, ErrSlow) {
		t.Errorf("a slow follower: %v; want %v", err, ErrSlow)
	}
}

// TestFlood: events that come too fast are counted.
func TestFlood(t *testing.T) {
	l := open(t, 1<<30)
	const n = 5 * queued
	for range n {
		l.Add(Event{Kind: Login})
	}
	l.Add(Event{Kind: Login})
	l.Close()
	kept, lost := 0, 0
	for _, e := range all(t, l) {
		if e.Kind != Lost {
			kept++
			continue
		}
		var k int
		if _, err := fmt.Sscanf(e.Detail, "%d events", &k); err != nil {
			t.Fatal(err)
		}
		lost += k
	}
	if kept+lost < n-1 && lost == 0 {
		t.Errorf("%d kept, %d said to be lost; want %d together", kept, lost, n)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("alice", "detail")
	f.Add("\xff\u202e", "\x1b[2J")
	f.Fuzz(func(t *testing.T, user, detail string) {
		line := Event{Kind: Login, User: user, Detail: detail}.Line()
		for i, b := range line {
			if (b < ' ' || b > '~') && (b != '\n' || i != len(line)-1) {
				t.Fatalf("byte %#x in %q", b, line)
			}
		}
		if _, err := decode(line); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	})
}
