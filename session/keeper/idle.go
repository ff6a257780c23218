package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox"
	"github.com/carrel-sh/carrel/session/events"
)

// A step is what comes next for a container that is not used.
type step int

const (
	nothing step = iota
	warnFreeze
	freeze
	warnStop
	stop
)

// lead is how long before it happens open terminals are warned: a minute, or
// a fifth of a short time.
func lead(after time.Duration) time.Duration { return min(time.Minute, after/5) }

// next says what to do now; nothing comes without a warning at an earlier
// look. Keeper.mu is held.
func (w *ward) next(now time.Time) step {
	idle, times := now.Sub(w.used), w.c.Idle
	switch {
	case times.Stop > 0 && idle >= times.Stop && (w.warned || w.frozen):
		return stop
	case w.frozen:
		return nothing // nobody sees a warning
	case times.Freeze > 0 && idle >= times.Freeze && w.warned:
		return freeze
	case w.warned:
	case times.Freeze > 0 && idle >= times.Freeze-lead(times.Freeze):
		return warnFreeze
	case times.Freeze == 0 && times.Stop > 0 && idle >= times.Stop-lead(times.Stop):
		return warnStop
	}
	return nothing
}

// unused is why a container was frozen or stopped.
func unused(d time.Duration) string { return fmt.Sprintf("not used for %v", d) }

// act does it.
func (k *Keeper) act(ctx context.Context, w *ward, s step) {
	times := w.c.Idle
	var err error
	switch s {
	case warnFreeze:
		_, err = Tell(ctx, w.c, fmt.Sprintf(
			"nobody has used this container for a while; in %v all in it stands still until you type something or log in again", lead(times.Freeze)))
	case warnStop:
		_, err = Tell(ctx, w.c, fmt.Sprintf(
			"nobody has used this container for a while; in %v it stops, with all that runs in it, unless you type something", lead(times.Stop)))
	case freeze:
		err = k.freeze(ctx, w)
	case stop:
		// Not here: others wait, and it takes its time.
		k.mu.Lock()
		again := w.why != ""
		if !again {
			w.why = unused(times.Stop)
		}
		k.mu.Unlock()
		if !again {
			go k.stop(context.WithoutCancel(ctx), w)
		}
	}
	if err != nil {
		k.Logger.Error("idle container", "user", w.c.User, "err", err)
	}
}

// freeze freezes a container in which something besides init runs; the other
// sleeps anyway.
func (k *Keeper) freeze(ctx context.Context, w *ward) error {
	if !w.c.InUse() {
		return nil
	}
	err := w.c.Freeze(ctx, sandbox.Idle)
	if errors.Is(err, sandbox.ErrBusy) {
		return nil
	}
	if err != nil {
		k.mu.Lock()
		w.used = time.Now() // not again at each look
		k.mu.Unlock()
		return err
	}
	k.mu.Lock()
	w.frozen = true
	k.mu.Unlock()
	k.Events.Add(events.Event{Kind: events.Freeze, User: w.c.User, UID: w.c.UID, Detail: unused(w.c.Idle.Freeze)})
	return nil
}

// farewell is how long programs have between SIGHUP and the end.
const farewell = 3 * time.Second

// errOver says that a container has been used again, or has ended already.
var errOver = errors.New("the container is no longer idle")

// stop ends an idle container, unless somebody logs in first: who comes during
// the farewell waits for its end and gets a container that stays.
func (k *Keeper) stop(ctx context.Context, w *ward) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := k.StopIdle(ctx, w.c.UID, func() error { return k.sayGoodbye(ctx, w) })
	if err == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if w.why == unused(w.c.Idle.Stop) { // and not root's
		w.why = ""
	}
	if errors.Is(err, sandbox.ErrBusy) || errors.Is(err, errOver) {
		return // the next look knows
	}
	w.used = time.Now() // not again at each look
	if !errors.Is(err, sandbox.ErrSuspended) {
		k.Logger.Error("stop idle container", "user", w.c.User, "err", err)
	}
}

// sayGoodbye tells the terminals, sends the programs SIGHUP, as from a terminal
// that is hung up, and gives them a moment to save what they have. Its error is
// why they are to run on.
func (k *Keeper) sayGoodbye(ctx context.Context, w *ward) error {
	if !k.leave(w, time.Now()) {
		return errOver
	}
	if _, err := w.c.Rouse(); err != nil {
		k.Logger.Error("thaw", "user", w.c.User, "err", err)
	}
	if w.c.Paused() == sandbox.Suspended {
		return sandbox.ErrSuspended // SIGHUP would wait for the thaw
	}
	_, _ = Tell(ctx, w.c, "nobody has used this container for long: it stops now")
	_, _ = w.c.Signal(ctx, unix.SIGHUP, 0)
	_, _ = w.c.Signal(ctx, unix.SIGCONT, 0)
	for end := time.Now().Add(farewell); w.c.InUse() && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if w.c.Paused() == sandbox.Suspended {
		return sandbox.ErrSuspended
	}
	return nil
}

// leave says whether the container is still to be stopped, when no login can
// come any more: one may have come since that was decided, or root's word, and
// then the uid's next container is another.
func (k *Keeper) leave(w *ward, now time.Time) bool {
	select {
	case <-w.c.Done():
		return false
	default:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if w.next(now) != stop {
		return false
	}
	w.frozen = false // it is not worth an event
	return true
}
