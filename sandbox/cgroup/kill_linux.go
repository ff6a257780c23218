package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// The waits of the kill and remove loops, and their whole length when the
// caller's context has no earlier end.
const (
	firstWait = 500 * time.Microsecond
	longWait  = 20 * time.Millisecond
	patience  = 5 * time.Second
)

// Procs returns the processes in the group and below it, in whichever
// hierarchy, sorted. A group that is gone has none.
func (g *Group) Procs() ([]int, error) {
	mounts := g.h.boxMounts()
	if g.h.Hybrid() {
		mounts = append(mounts, g.h.Unified)
	}
	var pids []int
	for _, m := range mounts {
		more, err := procsBelow(filepath.Join(m, g.path))
		if err != nil {
			return nil, fmt.Errorf("list processes of cgroup %q: %w", g.path, err)
		}
		pids = append(pids, more...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

func procsBelow(dir string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil && !gone(err) {
		return nil, err
	}
	pids := leaf.ParsePids(data)
	names, err := children(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		more, err := procsBelow(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

// Kill ends every process of the group and returns when none is left. It is
// idempotent, also on a group that is gone. At most ctx, or five seconds, are
// spent; what is left then is an error.
//
// v2 kills in one step, frozen processes too (cgroup.kill, Linux 5.14). v1
// forbids forks, thaws (a frozen v1 process dies only then) and kills in
// rounds; pids.max is put back at the end.
func (g *Group) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := g.kill(ctx); err != nil {
		return fmt.Errorf("kill cgroup %q: %w", g.path, err)
	}
	return nil
}

func (g *Group) kill(ctx context.Context) error {
	if g.h.Mode == leaf.V1 {
		restore, err := g.forbidForks()
		if err != nil {
			return err
		}
		defer restore()
		if err := g.thaw(); err != nil {
			return err
		}
	}
	if g.h.Unified != "" {
		// Absent on hybrid hosts unless libcontainer made it, and on old
		// kernels; the rounds below do not rely on it.
		err := writeExisting(filepath.Join(g.h.Unified, g.path, "cgroup.kill"), "1")
		if err != nil && !gone(err) {
			return err
		}
	}
	return retry(ctx, func() error {
		left, err := leaf.KillRound(g.Procs)
		if err == nil && left > 0 {
			err = fmt.Errorf("%d processes are left: %w", left, errAgain)
		}
		return err
	})
}

// forbidForks sets pids.max of a v1 group to 0 and returns what undoes it.
func (g *Group) forbidForks() (restore func(), err error) {
	mount := g.h.V1["pids"]
	if mount == "" {
		return func() {}, nil
	}
	file := filepath.Join(mount, g.path, "pids.max")
	old, err := readValue(file)
	if gone(err) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := writeExisting(file, "0"); err != nil && !gone(err) {
		return nil, err
	}
	return func() { _ = writeExisting(file, old) }, nil
}

// thaw wakes the v1 group and everything below it.
func (g *Group) thaw() error {
	mount := g.h.V1["freezer"]
	if mount == "" {
		return nil
	}
	return thawBelow(filepath.Join(mount, g.path))
}

func thawBelow(dir string) error {
	err := writeExisting(filepath.Join(dir, "freezer.state"), "THAWED")
	if err != nil && !gone(err) {
		return err
	}
	names, err := children(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := thawBelow(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// writeExisting writes value to a control file and creates none.
func writeExisting(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// errAgain marks what retry tries again.
var errAgain = errors.New("not yet")

// retry calls f until it returns something other than errAgain, or ctx ends;
// then f's last word is returned beside the context's.
func retry(ctx context.Context, f func() error) error {
	wait := firstWait
	for {
		err := f()
		if !errors.Is(err, errAgain) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(wait):
		}
		wait = min(2*wait, longWait)
	}
}

// LeafProcs returns the processes of one leaf of the box; none if it is gone.
func (g *Group) LeafProcs(name string) ([]int, error) {
	if name == "" || strings.ContainsAny(name, "/\x00") || name[0] == '.' {
		return nil, fmt.Errorf("leaf %q: %w", name, fs.ErrInvalid)
	}
	var pids []int
	for _, m := range g.h.boxMounts() {
		more, err := procsBelow(filepath.Join(m, g.Box(), name))
		if err != nil {
			return nil, fmt.Errorf("list processes of leaf %q: %w", name, err)
		}
		pids = append(pids, more...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}
