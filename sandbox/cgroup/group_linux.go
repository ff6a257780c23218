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
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// boxName is the delegated child of a user's cgroup.
const boxName = "box"

// A Group is one user's cgroup in every hierarchy of the host. It holds no
// descriptor and no state beside its path, so copies in several processes are
// the same group. Its methods may be called concurrently.
type Group struct {
	h    Hierarchy
	path string // <parent>/<name>
}

// Create is Hierarchy.Create on this host.
func Create(parent, name string, l Limits) (*Group, []Unenforced, error) {
	h, err := Detect()
	if err != nil {
		return nil, nil, err
	}
	return h.Create(parent, name, l)
}

// Create makes <parent>/<name> and its box, with the limits on <name>, and
// reads every limit back: each one that is not in force is reported, and the
// caller decides whether that is an error. An empty group left there by a
// crash is replaced; one with processes is an error that wraps fs.ErrExist. An
// error leaves nothing of <name> behind.
func (h Hierarchy) Create(parent, name string, l Limits) (*Group, []Unenforced, error) {
	g, err := h.group(parent, name)
	if err != nil {
		return nil, nil, err
	}
	if err := l.check(); err != nil {
		return nil, nil, fmt.Errorf("create cgroup %q: %w", g.path, err)
	}
	if err := g.clearLeftover(); err != nil {
		return nil, nil, fmt.Errorf("create cgroup %q: %w", g.path, err)
	}
	un, err := g.make(l)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("create cgroup %q: %w", g.path, err), g.Remove(context.Background()))
	}
	return g, un, nil
}

func (g *Group) make(l Limits) ([]Unenforced, error) {
	apply := g.h.applyV1
	if g.h.Mode == leaf.V2 {
		apply = g.h.applyV2
	}
	un, err := apply(g.path, l)
	if err != nil {
		return nil, err
	}
	for _, dir := range g.dirs() {
		if err := os.Mkdir(filepath.Join(dir, boxName), 0o755); err != nil {
			return nil, err
		}
	}
	return un, nil
}

// clearLeftover removes an empty group of this name.
func (g *Group) clearLeftover() error {
	for _, m := range g.h.allMounts() {
		err := removeTree(filepath.Join(m, g.path))
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%w and has processes", fs.ErrExist)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Load is Hierarchy.Load on this host.
func Load(parent, name string) (*Group, error) {
	h, err := Detect()
	if err != nil {
		return nil, err
	}
	return h.Load(parent, name)
}

// Load returns the group that Create made earlier. A group that has no box in
// some hierarchy is an error that wraps fs.ErrNotExist.
func (h Hierarchy) Load(parent, name string) (*Group, error) {
	g, err := h.group(parent, name)
	if err != nil {
		return nil, err
	}
	for _, dir := range g.dirs() {
		if _, err := os.Stat(filepath.Join(dir, boxName)); err != nil {
			return nil, fmt.Errorf("load cgroup %q: %w", g.path, err)
		}
	}
	return g, nil
}

// Leftover returns the group of that name if anything of it is left in any
// hierarchy, whole or not: for Kill and Remove after a crash, or a start that
// failed halfway. What is not there at all is an error that wraps
// fs.ErrNotExist.
func Leftover(parent, name string) (*Group, error) {
	h, err := Detect()
	if err != nil {
		return nil, err
	}
	g, err := h.group(parent, name)
	if err != nil {
		return nil, err
	}
	for _, m := range h.allMounts() {
		if _, err := os.Lstat(filepath.Join(m, g.path)); err == nil {
			return g, nil
		}
	}
	return nil, fmt.Errorf("cgroup %q: %w", g.path, fs.ErrNotExist)
}

// group checks the names.
func (h Hierarchy) group(parent, name string) (*Group, error) {
	if err := checkParent(parent); err != nil {
		return nil, err
	}
	if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\n\x00") {
		return nil, fmt.Errorf("cgroup name %q: %w", name, fs.ErrInvalid)
	}
	return &Group{h: h, path: filepath.Join(parent, name)}, nil
}

// Path returns "<parent>/<name>", the cgroup that carries the limits.
func (g *Group) Path() string { return g.path }

// Box returns "<parent>/<name>/box", below which the leaves are made. The
// package documentation says where libcontainer puts PID 1.
func (g *Group) Box() string { return filepath.Join(g.path, boxName) }

// Hierarchy returns the host's layout as it was when the group was made or
// loaded.
func (g *Group) Hierarchy() Hierarchy { return g.h }

// dirs returns the group's directory in each hierarchy that carries it.
func (g *Group) dirs() []string {
	mounts := g.h.boxMounts()
	for i, m := range mounts {
		mounts[i] = filepath.Join(m, g.path)
	}
	return mounts
}

// Delegate gives the box to container root, uid and gid as the host counts
// them: the directory, and on v2 its cgroup.procs, which is what a process
// needs to be born in a leaf (the common parent of source and destination must
// be writable, cgroups(7)). Every other file of the box stays host root's.
func (g *Group) Delegate(uid, gid uint32) error {
	for _, dir := range g.dirs() {
		box := filepath.Join(dir, boxName)
		paths := []string{box}
		if g.h.Mode == leaf.V2 {
			paths = append(paths, filepath.Join(box, "cgroup.procs"))
		}
		for _, p := range paths {
			if err := os.Lchown(p, int(uid), int(gid)); err != nil {
				return fmt.Errorf("delegate cgroup: %w", err)
			}
		}
	}
	return nil
}

// BoxDirs returns the descriptors that PID 1 inherits, for leaf.Inherit: the
// box as O_PATH directory, once on v2 and in each hierarchy on v1. controllers
// narrows v1's choice; none means memory, cpu, cpuacct, pids and freezer, each
// where mounted. Every hierarchy costs a session some 40 µs on v1, and "pids"
// alone is enough to find and kill its processes. The caller closes them.
func (g *Group) BoxDirs(controllers ...string) ([]*os.File, leaf.Mode, error) {
	mounts := g.h.boxMounts()
	if g.h.Mode == leaf.V1 && len(controllers) > 0 {
		mounts = g.h.mountsOf(controllers)
	}
	var files []*os.File
	for _, m := range mounts {
		path := filepath.Join(m, g.Box())
		if !slices.Contains(g.h.boxMounts(), m) {
			return nil, 0, closeAll(files, fmt.Errorf("open cgroup box: no box in %q", m))
		}
		f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, 0, closeAll(files, fmt.Errorf("open cgroup box: %w", err))
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, 0, fmt.Errorf("open cgroup box: none of %q is mounted", controllers)
	}
	return files, g.h.Mode, nil
}

func closeAll(files []*os.File, err error) error {
	for _, f := range files {
		f.Close()
	}
	return err
}

// gone reports whether err says that a cgroup does not exist, or no longer:
// reading a file of a removed one gives ENODEV.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}
