package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/durable"
)

// ErrHome says that the home cannot be used as the policy wants it.
var ErrHome = errors.New("home unusable")

// home returns the directory of the host that becomes the user's home, "" for
// none. It makes a private one that does not exist.
func (m *Manager) home(s Spec) (string, error) {
	switch s.Home {
	case HomeNone:
		return "", nil
	case HomeHost:
		if err := checkHostHome(s.HomePath, s.User.UID); err != nil {
			return "", fmt.Errorf("%w: %w", ErrHome, err)
		}
		return s.HomePath, nil
	}
	dir := filepath.Join(m.cfg.StateDir, "homes", strconv.FormatUint(uint64(s.User.UID), 10))
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return dir, makeHome(dir, s.User)
	}
	if err == nil {
		err = checkOwned(dir, info, s.User.UID)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrHome, err)
	}
	return dir, nil
}

// makeHome makes a home as useradd(8) does: a copy of /etc/skel that belongs
// to the user. It appears by a rename, whole or not at all.
func makeHome(dir string, u User) error {
	temp := dir + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	if err := copySkeleton("/etc/skel", temp, int(u.UID), int(u.GID)); err != nil {
		os.RemoveAll(temp)
		return fmt.Errorf("make home: %w", err)
	}
	if err := os.Rename(temp, dir); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// copySkeleton copies the directories, files and symlinks of root's own from.
func copySkeleton(from, to string, uid, gid int) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	source, err := os.OpenRoot(from)
	if err == nil {
		defer source.Close()
		err = fs.WalkDir(source.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || name == "." {
				return err
			}
			return copyEntry(source, name, filepath.Join(to, name), entry, uid, gid)
		})
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Lchown(to, uid, gid)
}

func copyEntry(source *os.Root, name, to string, entry fs.DirEntry, uid, gid int) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	switch {
	case entry.IsDir():
		err = os.Mkdir(to, info.Mode().Perm())
	case entry.Type() == fs.ModeSymlink:
		var target string
		if target, err = source.Readlink(name); err == nil {
			err = os.Symlink(target, to)
		}
	case entry.Type().IsRegular():
		var content []byte
		if content, err = source.ReadFile(name); err == nil {
			err = os.WriteFile(to, content, info.Mode().Perm())
		}
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return os.Lchown(to, uid, gid)
}

// checkHostHome refuses a path by which an account's pw_dir could name another
// directory than the user's own: through a symlink, or below a directory that
// somebody but root can change.
func checkHostHome(path string, uid uint32) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" {
		return fmt.Errorf("%q is no plain absolute path", path)
	}
	parent := "/"
	for _, name := range strings.Split(filepath.Dir(path)[1:], "/") {
		parent = filepath.Join(parent, name)
		var st unix.Stat_t
		if err := unix.Lstat(parent, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: parent, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != 0 || (st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0) {
			return fmt.Errorf("%q is not a directory that only root can change", parent)
		}
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	return checkOwned(path, info, uid)
}

func checkOwned(path string, info fs.FileInfo, uid uint32) error {
	if !info.IsDir() {
		return fmt.Errorf("%q is not a directory", path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != uid {
		return fmt.Errorf("%q does not belong to uid %d", path, uid)
	}
	return nil
}
