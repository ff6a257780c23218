// Package idmap makes id-mapped mounts: a detached copy of a directory tree in
// which the owners of files are translated on the fly, so that one unshifted
// copy on disk serves every user namespace (mount_setattr(2), Linux 5.12;
// overlayfs layers since 5.19).
//
// Nothing here follows a path that a user controls: callers hand in
// directories of Carrel's own, or descriptors that they checked themselves.
package idmap

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Map is one extent of an id mapping.
type Map struct {
	Inside  uint32 // first id as the file system, or the namespace, knows it
	Outside uint32 // first id in the initial user namespace
	Size    uint32 // number of ids; 0 is invalid
}

// Namespace returns a descriptor of a new user namespace with the given maps
// and no process in it. The caller closes it. It takes about one fork: a child
// is started in the new namespace, stopped at its execve and killed before it
// runs an instruction of its own.
func Namespace(uids, gids []Map) (*os.File, error) {
	// ptrace(2): the tracer is a thread, so all of this stays on one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"idmap"}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER,
			UidMappings:                sysMap(uids),
			GidMappings:                sysMap(gids),
			GidMappingsEnableSetgroups: true,
			Ptrace:                     true,
			Pdeathsig:                  unix.SIGKILL,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("create user namespace: %w", err)
	}
	defer reap(pid)
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	return ns, nil
}

// reap kills and collects the stopped child.
func reap(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		if err == unix.EINTR || (err == nil && status.Stopped()) {
			continue
		}
		return
	}
}

func sysMap(maps []Map) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.Inside), HostID: int(m.Outside), Size: int(m.Size)}
	}
	return out
}

// Clone returns a detached, id-mapped copy of the mount at the directory dir,
// with the mounts below it if recursive. attrs are more MOUNT_ATTR_* bits, such as
// MOUNT_ATTR_RDONLY. The copy vanishes when the descriptor is closed, unless
// Attach gave it a place first. The caller closes it.
func Clone(dir string, userns *os.File, attrs uint64, recursive bool) (*os.File, error) {
	var below uint
	if recursive {
		below = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW|below)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	tree := os.NewFile(uintptr(fd), dir)
	attr := unix.MountAttr{
		Attr_set:  attrs | unix.MOUNT_ATTR_IDMAP,
		Userns_fd: uint64(userns.Fd()),
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|below, &attr); err != nil {
		tree.Close()
		return nil, &os.PathError{Op: "mount_setattr", Path: dir, Err: err}
	}
	return tree, nil
}

// Attach gives the detached tree a place in the caller's mount namespace.
func Attach(tree *os.File, dir string) error {
	err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return &os.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	return nil
}
