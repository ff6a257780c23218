package keeper

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/events"
)

func TestNext(t *testing.T) {
	const m = time.Minute
	start := time.Unix(1_700_000_000, 0)
	both, only := sandbox.IdleTimes{Freeze: 30 * m, Stop: 24 * time.Hour}, sandbox.IdleTimes{Stop: 60 * m}
	for _, tt := range []struct {
		name  string
		times sandbox.IdleTimes
		idle  time.Duration
		state ward
		want  step
	}{
		{"never", sandbox.IdleTimes{}, 1000 * time.Hour, ward{}, nothing},
		{"in use", both, 0, ward{}, nothing},
		{"just not warned", both, 29*m - 1, ward{}, nothing},
		{"warned", both, 29 * m, ward{}, warnFreeze},
		{"not twice", both, 29*m + 30*time.Second, ward{warned: true}, nothing},
		{"frozen", both, 30 * m, ward{warned: true}, freeze},
		{"a late warning comes first", both, 31 * m, ward{}, warnFreeze},
		{"and before a stop", only, 90 * m, ward{}, warnStop},
		{"frozen already", both, 31 * m, ward{frozen: true, warned: true}, nothing},
		{"stopped out of the frost", both, 24 * time.Hour, ward{frozen: true}, stop},
		{"stop alone warns", only, 59 * m, ward{}, warnStop},
		{"stop alone", only, 60 * m, ward{warned: true}, stop},
		{"a short time has a short warning", sandbox.IdleTimes{Freeze: 10 * time.Second}, 8 * time.Second, ward{}, warnFreeze},
	} {
		w := tt.state
		w.c, w.used = &sandbox.Container{}, start
		w.c.Idle = tt.times
		if got := w.next(start.Add(tt.idle)); got != tt.want {
			t.Errorf("%s: next after %v = %d; want %d", tt.name, tt.idle, got, tt.want)
		}
	}
}

// TestStopOver: a container that is used again when it is about to be stopped is
// not, and neither is one of a user who logs in.
func TestStopOver(t *testing.T) {
	const idle = "not used for 1h0m0s"
	now := time.Now()
	fault := errors.New("test")
	for _, tt := range []struct {
		name    string
		err     error // StopIdle's, before any farewell
		used    time.Time
		why     string
		wantErr error
		wantWhy string
		again   bool // the next look tries again
	}{
		{"a login since the decision", nil, now, idle, errOver, "", false},
		{"a login under way", sandbox.ErrBusy, now.Add(-2 * time.Hour), idle, nil, "", true},
		{"root suspends it", sandbox.ErrSuspended, now.Add(-2 * time.Hour), idle, nil, "", false},
		{"a fault", fault, now.Add(-2 * time.Hour), idle, nil, "", false},
		{"root stops it", sandbox.ErrBusy, now.Add(-2 * time.Hour), "by root", nil, "by root", true},
	} {
		w := &ward{c: &sandbox.Container{}, used: tt.used, warned: true, why: tt.why}
		w.c.Idle.Stop = time.Hour
		var got error
		k := &Keeper{
			Logger: slog.New(slog.DiscardHandler),
			StopIdle: func(_ context.Context, _ uint32, farewell func() error) error {
				if tt.err != nil {
					return tt.err
				}
				got = farewell()
				return got
			},
		}
		k.stop(t.Context(), w)
		if !errors.Is(got, tt.wantErr) || w.why != tt.wantWhy || (w.next(time.Now()) == stop) != tt.again {
			t.Errorf("%s: farewell %v, why %q, next %d; want %v, %q, again %v", tt.name, got, w.why, w.next(time.Now()), tt.wantErr, tt.wantWhy, tt.again)
		}
	}
	// The twin: nobody came.
	w := &ward{c: &sandbox.Container{}, used: now.Add(-time.Hour), warned: true, frozen: true}
	w.c.Idle.Stop = time.Hour
	if k := new(Keeper); !k.leave(w, now) || w.frozen {
		t.Error("an idle container is not left")
	}
}

// eventless takes events and forgets them.
type eventless struct{}

func (eventless) Add(events.Event) {}

// TestPendingFormer: what a user is to be told is not told to whoever has their
// uid next.
func TestPendingFormer(t *testing.T) {
	user := func(name string) *ward {
		w := &ward{c: &sandbox.Container{}}
		w.c.User, w.c.UID = name, 1000
		return w
	}
	k := &Keeper{Logger: slog.New(slog.DiscardHandler), Events: eventless{}, pending: make(map[string][]string)}
	k.explain(user("alice"), cgroup.Events{OOMKills: 1}) // who is at no terminal
	k.tellPending(user("bob"))
	if got := k.pending["alice"]; len(got) != 1 || len(k.pending) != 1 {
		t.Errorf("pending %q; want one for alice", k.pending)
	}
	k.tellPending(user("alice")) // the twin
	if len(k.pending) != 0 {
		t.Errorf("pending %q; want nothing any more", k.pending)
	}
}

func TestSentences(t *testing.T) {
	for n, want := range map[int64]string{2 << 30: "2 GiB", 1<<30 + 1<<29: "1.5 GiB", 96 << 20: "96 MiB", 12: "12 bytes", 3 << 40: "3 TiB"} {
		if got := Amount(n); got != want {
			t.Errorf("Amount(%d) = %q; want %q", n, got, want)
		}
	}
	if got, want := oomSentence(2<<30), "your processes were stopped: memory limit 2 GiB reached"; got != want {
		t.Errorf("oomSentence = %q; want %q", got, want)
	}
	for x, want := range map[session.Exit]string{{}: "status 0", {Status: 7}: "status 7", {Signal: 9}: "signal 9"} {
		if got := how(x); got != want {
			t.Errorf("how(%v) = %q; want %q", x, got, want)
		}
	}
}
