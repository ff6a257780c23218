package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove removes the group with everything below it from every hierarchy of
// the host, those included that libcontainer made it in (devices, cpuset,
// blkio, name=systemd, cgroup2 beside v1). The processes must be gone: the
// kernel takes a moment after the last one was reaped, so EBUSY is tried again
// until ctx, or five seconds, are over. It is idempotent. The parent stays.
func (g *Group) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, m := range g.h.allMounts() {
		dir := filepath.Join(m, g.path)
		err := retry(ctx, func() error {
			err := removeTree(dir)
			if errors.Is(err, unix.EBUSY) {
				return fmt.Errorf("%w: %w", err, errAgain)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("remove cgroup %q: %w", g.path, err)
		}
	}
	return nil
}

// removeTree removes dir and the cgroups below it. A dir that is gone is no
// error. EBUSY is the kernel's for processes; ENOTEMPTY cannot come from a
// cgroup that has lost its children, so a leaf made meanwhile is EBUSY too.
func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	names, rerr := children(dir)
	if rerr != nil {
		return rerr
	}
	for _, name := range names {
		if err := removeTree(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err = unix.Rmdir(dir); err == nil || err == unix.ENOENT {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}
