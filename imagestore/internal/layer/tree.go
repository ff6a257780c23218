package layer

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is the directory that a layer is applied to. It is used by one
// goroutine, and nobody else changes the directory.
type tree struct {
	root int // descriptor; the caller's
	// The directory used last: archives list what is in one together.
	dir     int // descriptor, -1 if none
	dirPath string
	// made counts the directories that no entry asked for.
	made int64
}

func newTree(root *os.File) *tree { return &tree{root: int(root.Fd()), dir: -1} }

// forget closes the cached directory.
func (t *tree) forget() {
	if t.dir >= 0 {
		unix.Close(t.dir)
	}
	t.dir = -1
}

// resolve is how every path is walked (openat2(2), Linux 5.6).
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// errParent says what openat2(2) means by ELOOP and ENOTDIR.
var errParent = errors.New("its parent is a symbolic link or no directory")

// openDir opens the directory at a clean path; flags are more O_* bits.
func (t *tree) openDir(clean string, flags uint64) (int, error) {
	if clean == "" {
		clean = "."
	}
	how := unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | flags, Resolve: resolve}
	for {
		fd, err := unix.Openat2(t.root, clean, &how)
		switch err {
		case unix.EINTR, unix.EAGAIN: // EAGAIN: a rename elsewhere raced the walk
			continue
		case unix.ELOOP, unix.ENOTDIR:
			return -1, errParent
		}
		return fd, os.NewSyscallError("openat2", err)
	}
}

// parent returns the directory of a clean path. Missing directories are made,
// as archives need not list them. The descriptor is valid until the next call
// of a method.
func (t *tree) parent(clean string) (fd int, base string, err error) {
	dir, base := splitPath(clean)
	if t.dir >= 0 && t.dirPath == dir {
		return t.dir, base, nil
	}
	t.forget()
	fd, err = t.openDir(dir, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		fd, err = t.makeDirs(dir)
	}
	if err != nil {
		return -1, "", err
	}
	t.dir, t.dirPath = fd, dir
	return fd, base, nil
}

// makeDirs makes the missing directories of a clean path and opens the last.
func (t *tree) makeDirs(clean string) (int, error) {
	for i := 0; i <= len(clean); i++ {
		if i < len(clean) && clean[i] != '/' {
			continue
		}
		dir, base := splitPath(clean[:i])
		fd, err := t.openDir(dir, unix.O_PATH)
		if err != nil {
			return -1, err
		}
		err = unix.Mkdirat(fd, base, 0o755)
		unix.Close(fd)
		if err == nil {
			t.made++
		} else if !errors.Is(err, unix.EEXIST) { // a directory, or openDir says what it is
			return -1, os.NewSyscallError("mkdirat", err)
		}
	}
	return t.openDir(clean, unix.O_PATH)
}

// stat returns the mode and device number of what is at base in dir; mode 0
// if there is nothing.
func stat(dir int, base string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return unix.Stat_t{}, nil
	}
	return st, os.NewSyscallError("fstatat", err)
}

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// isWhiteout reports the mark that hides a name of the layers below.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// remove removes what is at the clean path, with everything below it. The
// cached directory is then the one above it, and so it is still there.
func (t *tree) remove(clean string) error {
	dir, base, err := t.parent(clean)
	if err != nil {
		return err
	}
	err = unix.Unlinkat(dir, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = removeDir(dir, base)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return os.NewSyscallError("unlinkat", err)
}

// removeDir removes the directory base in dir. cleanPath bounds the depth.
func removeDir(dir int, base string) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	for {
		names, _ := f.Readdirnames(1024)
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			err := unix.Unlinkat(fd, name, 0)
			if errors.Is(err, unix.EISDIR) {
				err = removeDir(fd, name)
			}
			if err != nil {
				return err
			}
		}
		// Removal moves the position in some file systems.
		if _, err := f.Seek(0, 0); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// xattrKept reports whether an extended attribute belongs to a layer.
// trusted.* and user.overlay.* would steer overlayfs (CVE-2021-3493 and its
// family), system.* carries access lists, the rest of security.* is for the
// administrator of a host.
func xattrKept(name string) bool {
	if len(name) > maxName || strings.Contains(name, "\x00") {
		return false
	}
	if name == "security.capability" {
		return true
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.") &&
		name != "user.overlay" && !strings.HasPrefix(name, "user.overlay.")
}
