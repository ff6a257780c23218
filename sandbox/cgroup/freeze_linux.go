package cgroup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// errNoFreezer says that the host cannot freeze a group.
var errNoFreezer = errors.New("the host has no freezer controller in cgroup v1")

// Freeze stops every process of the group until Thaw, and returns when all
// have stopped. On an error, or when ctx or five seconds end, it thaws again.
func (g *Group) Freeze(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.freeze(ctx); err != nil {
		return errors.Join(fmt.Errorf("freeze cgroup %q: %w", g.path, err), g.Thaw())
	}
	return nil
}

func (g *Group) freeze(ctx context.Context) error {
	file, value := g.freezer("1", "FROZEN")
	if file == "" {
		return errNoFreezer
	}
	return retry(ctx, func() error {
		// v1 stays FREEZING when a task could not be stopped just then, and
		// tries again only when told again (freezer-subsystem.rst).
		if err := writeExisting(file, value); err != nil {
			return err
		}
		frozen, err := g.Frozen()
		if err == nil && !frozen {
			err = errAgain
		}
		return err
	})
}

// Thaw lets the group run on. It is idempotent, also on a group that is gone.
func (g *Group) Thaw() error {
	if g.h.Mode == leaf.V1 {
		return g.thaw() // nothing below may be left frozen either
	}
	file, value := g.freezer("0", "")
	if err := writeExisting(file, value); err != nil && !gone(err) {
		return fmt.Errorf("thaw cgroup %q: %w", g.path, err)
	}
	return nil
}

// Frozen says that every process of the group has stopped. A group that is
// gone has not.
func (g *Group) Frozen() (bool, error) {
	if g.h.Mode == leaf.V1 {
		mount := g.h.V1["freezer"]
		if mount == "" {
			return false, nil
		}
		state, err := readValue(filepath.Join(mount, g.path, "freezer.state"))
		if gone(err) {
			return false, nil
		}
		return state == "FROZEN", err
	}
	// Not cgroup.freeze, which says what was asked for (cgroup-v2.rst).
	events, err := readValue(filepath.Join(g.h.Unified, g.path, "cgroup.events"))
	if gone(err) {
		return false, nil
	}
	return strings.Contains("\n"+events+"\n", "\nfrozen 1\n"), err
}

// freezer returns the file that freezes the group and what v2 or v1 wants in
// it; "" where there is none.
func (g *Group) freezer(v2, v1 string) (file, value string) {
	if g.h.Mode == leaf.V2 {
		return filepath.Join(g.h.Unified, g.path, "cgroup.freeze"), v2
	}
	if mount := g.h.V1["freezer"]; mount != "" {
		return filepath.Join(mount, g.path, "freezer.state"), v1
	}
	return "", ""
}
