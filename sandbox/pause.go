package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A Pause says why a container is frozen: every process in it stands still
// and takes no CPU time; memory stays. The zero value is a running one.
type Pause string

// The pauses.
const (
	Idle      Pause = "idle"      // nobody used it; the next use thaws it
	Suspended Pause = "suspended" // root said so, and root thaws it
)

var (
	// ErrSuspended is what a login into a suspended container gets.
	ErrSuspended = errors.New("the container is suspended")
	// ErrBusy says that a container cannot be frozen for idleness: a login is
	// under way.
	ErrBusy = errors.New("a login is under way")
)

// pauses is the frozen state of one container.
type pauses struct {
	mu    sync.Mutex
	users int // logins under way
	pause Pause
}

// Acquire makes sure that the container runs, and keeps it from being frozen
// for idleness until Release. A suspended one is ErrSuspended. Every login
// comes by here, so a container that is not frozen costs it a lock that nobody
// else holds.
func (c *Container) Acquire() error {
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	switch c.pauses.pause {
	case Suspended:
		return ErrSuspended
	case Idle:
		if err := c.thawLocked(); err != nil {
			return err
		}
	}
	c.pauses.users++
	return nil
}

// Release ends what Acquire began.
func (c *Container) Release() {
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	c.pauses.users--
}

// Paused says whether the container is frozen, and why.
func (c *Container) Paused() Pause {
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	return c.pauses.pause
}

// Freeze stops every process of the container, PID 1 included. It is no error
// that it was frozen already: Suspended counts more than Idle.
func (c *Container) Freeze(ctx context.Context, why Pause) error {
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	switch {
	case c.pauses.pause == why, c.pauses.pause == Suspended:
		return nil
	case why == Idle && c.pauses.users > 0:
		return ErrBusy
	}
	// The note first: a daemon that dies in between finds a reason without a
	// frozen group, which is nothing, and never a frozen group without a reason.
	if err := os.WriteFile(c.pauseFile(), []byte(why), 0o600); err != nil {
		return err
	}
	if err := c.group.Freeze(ctx); err != nil {
		return errors.Join(err, os.Remove(c.pauseFile()))
	}
	c.pauses.pause = why
	return nil
}

// Thaw lets the container run on, whatever the reason was. It reports whether
// it was frozen.
func (c *Container) Thaw() (was bool, err error) {
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	if c.pauses.pause == "" {
		return false, nil
	}
	return true, c.thawLocked()
}

// Rouse thaws the container if it is frozen for idleness.
func (c *Container) Rouse() (was bool, err error) {
	c.pauses.mu.Lock()
	defer c.pauses.mu.Unlock()
	if c.pauses.pause != Idle {
		return false, nil
	}
	return true, c.thawLocked()
}

func (c *Container) thawLocked() error {
	if err := c.group.Thaw(); err != nil {
		return err
	}
	c.pauses.pause = ""
	if err := os.Remove(c.pauseFile()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// loadPause finds out after a restart of carreld what the kernel and the note
// say.
func (c *Container) loadPause() error {
	frozen, err := c.group.Frozen()
	if err != nil {
		return err
	}
	note, err := os.ReadFile(c.pauseFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	why := Pause(strings.TrimSpace(string(note)))
	switch {
	case !frozen && why != "":
		// The daemon died while it froze or thawed.
		return errors.Join(c.group.Thaw(), os.Remove(c.pauseFile()))
	case frozen && why != Suspended:
		why = Idle
	case !frozen:
		why = ""
	}
	c.pauses.pause = why
	return nil
}

func (c *Container) pauseFile() string { return filepath.Join(c.dir, "paused") }

// killPaused lets the SIGKILL that PID 1 has been sent reach it: a frozen
// process of cgroup v1 dies only when it is thawed. Nothing of the container
// runs on in between, for PID 1 takes all of it along.
func (c *Container) killPaused() error {
	if _, err := c.Thaw(); err != nil {
		return fmt.Errorf("thaw to kill: %w", err)
	}
	return nil
}
