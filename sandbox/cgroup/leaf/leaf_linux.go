package leaf

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// A Mode says which interface the box has. The zero value is invalid.
type Mode uint8

const (
	// V1 is one directory per hierarchy; on hybrid hosts too.
	V1 Mode = 1
	// V2 is one directory of the unified hierarchy.
	V2 Mode = 2
)

// An Error is a failed step on one file of a leaf.
type Error struct {
	Op   string // the system call
	Name string // the leaf, or the leaf and a file in it
	Err  error
}

func (e *Error) Error() string { return e.Op + " " + strconv.Quote(e.Name) + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

var (
	// ErrMode is returned for a call that the mode of the box does not have.
	ErrMode = errors.New("not in this cgroup mode")
	// ErrName is returned for a leaf name that is not one plain path component.
	ErrName = errors.New("bad leaf name")
)

// dirFlags opens a directory to work below it, never to read it.
const dirFlags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// A Box is the delegated directory below which leaves are made. It is safe for
// use by several goroutines.
type Box struct {
	mode Mode
	fds  []int
}

// Inherit wraps the box directories that the creator of the container passed
// on: one descriptor for V2, one per hierarchy for V1. They stay open as long
// as the box is used and are marked close-on-exec here, so that no session
// inherits them. fds is kept.
func Inherit(mode Mode, fds []int) (*Box, error) {
	if (mode != V1 && mode != V2) || len(fds) == 0 || (mode == V2 && len(fds) != 1) {
		return nil, ErrMode
	}
	for _, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return nil, &Error{"fstat", "fd " + strconv.Itoa(fd), err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil, &Error{"fstat", "fd " + strconv.Itoa(fd), unix.ENOTDIR}
		}
		unix.CloseOnExec(fd)
	}
	return &Box{mode: mode, fds: fds}, nil
}

// Mode returns the mode that the box was made with.
func (b *Box) Mode() Mode { return b.mode }

// A Leaf is the cgroup of one session. Its methods may be called from several
// goroutines, except Close, after which none may be.
type Leaf struct {
	box  *Box
	name string
	fds  []int
}

// New makes the leaf name in every hierarchy of the box. An error leaves
// nothing behind. A leaf that exists already is an error that wraps EEXIST.
// The caller ends the leaf with Remove and Close.
func (b *Box) New(name string) (*Leaf, error) {
	if !plain(name) {
		return nil, ErrName
	}
	l := &Leaf{box: b, name: name, fds: make([]int, 0, len(b.fds))}
	for i, dir := range b.fds {
		fd, err := makeDir(dir, name)
		if err != nil {
			l.Close()
			for _, made := range b.fds[:i] {
				_ = unix.Unlinkat(made, name, unix.AT_REMOVEDIR)
			}
			return nil, err
		}
		l.fds = append(l.fds, fd)
	}
	return l, nil
}

// makeDir makes name below dir and opens it.
func makeDir(dir int, name string) (int, error) {
	if err := unix.Mkdirat(dir, name, 0o755); err != nil {
		return -1, &Error{"mkdirat", name, err}
	}
	fd, err := openat(dir, name, dirFlags)
	if err != nil {
		_ = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
		return -1, &Error{"openat", name, err}
	}
	return fd, nil
}

// plain reports whether name is one path component and nothing else. A cgroup
// name may not hold a newline (cgroup_mkdir refuses it).
func plain(name string) bool {
	if name == "" || name == "." || name == ".." || len(name) > 255 {
		return false
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 || name[i] == '\n' {
			return false
		}
	}
	return true
}

// Name returns the name given to New.
func (l *Leaf) Name() string { return l.name }

// FD returns the directory descriptor for SysProcAttr.CgroupFD, so that the
// child is born in the leaf (clone3(2), CLONE_INTO_CGROUP, Linux 5.7). It is
// -1 for V1. The leaf keeps the descriptor.
func (l *Leaf) FD() int {
	if l.box.mode != V2 {
		return -1
	}
	return l.fds[0]
}

// Enter moves the calling thread, and nothing else of the process, into the
// leaf; children that it forks are born there. The caller has locked the
// goroutine to its thread and never unlocks it, so that the thread ends with
// the goroutine: after an error too, for the thread may be in some hierarchies
// and not in others. Until it has ended, Remove returns EBUSY. It must not be
// the process's first thread, which Go cannot end: pin main to it with
// runtime.LockOSThread in an init function. V1 only.
func (l *Leaf) Enter() error {
	if l.box.mode != V1 {
		return ErrMode
	}
	for _, fd := range l.fds {
		if err := l.write(fd, "tasks", "0"); err != nil {
			return err
		}
	}
	return nil
}

// Pids returns the processes in the leaf as PID 1's namespace numbers them.
func (l *Leaf) Pids() ([]int, error) {
	var pids []int
	for _, fd := range l.fds {
		more, err := l.pids(fd)
		if err != nil {
			return nil, err
		}
		pids = union(pids, more)
	}
	return pids, nil
}

// Remove removes the empty leaf; one that is gone already is no error. EBUSY
// means that a process, or on V1 the thread that entered, is still in it: the
// caller tries again later.
func (l *Leaf) Remove() error {
	for _, dir := range l.box.fds {
		err := unix.Unlinkat(dir, l.name, unix.AT_REMOVEDIR)
		if err != nil && err != unix.ENOENT {
			return &Error{"rmdir", l.name, err}
		}
	}
	return nil
}

// Close closes the leaf's own descriptors; the leaf itself stays.
func (l *Leaf) Close() {
	for _, fd := range l.fds {
		unix.Close(fd)
	}
	l.fds = nil
}

// write writes value to a control file of the leaf.
func (l *Leaf) write(dir int, file, value string) error {
	fd, err := openat(dir, file, unix.O_WRONLY|unix.O_CLOEXEC)
	if err != nil {
		return &Error{"openat", l.name + "/" + file, err}
	}
	defer unix.Close(fd)
	for {
		_, werr := unix.Write(fd, []byte(value))
		if werr == nil {
			return nil
		}
		if werr != unix.EINTR {
			return &Error{"write", l.name + "/" + file, werr}
		}
	}
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
