package imagestore

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// staging is a directory that an import fills. The lock on it says that the
// importer lives.
type staging struct {
	dir  string
	root string // below dir; becomes the layer
	lock *os.File
}

// newStaging makes one. It takes the writer lock for a moment, so that clean
// does not find the directory before it is locked.
func (s *Store) newStaging(ctx context.Context) (*staging, error) {
	writer, err := lock(ctx, s.path(fileLock))
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	dir := s.path(dirStaging, rand.Text())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	st := &staging{dir: dir, root: filepath.Join(dir, "root")}
	if st.lock, err = tryLockDir(dir); err == nil {
		if err = os.Mkdir(st.root, 0o755); err == nil {
			err = os.Chmod(st.root, 0o755) // whatever the umask is
		}
	}
	if err != nil {
		st.remove()
		return nil, err
	}
	return st, nil
}

// remove deletes what is left of it.
func (st *staging) remove() {
	os.RemoveAll(st.dir)
	if st.lock != nil {
		st.lock.Close()
	}
}

// markOpaque marks directories to hide the layers below. The worker cannot:
// trusted.* takes CAP_SYS_ADMIN in the initial user namespace (xattr(7)). The
// paths are claimed by it.
func (st *staging) markOpaque(claimed []string) error {
	if len(claimed) == 0 {
		return nil
	}
	root, err := os.OpenFile(st.root, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, path := range claimed {
		if path == "" {
			path = "."
		}
		if err := markOpaque(root, path); err != nil {
			return fmt.Errorf("mark %.300q opaque: %w", path, err)
		}
	}
	return nil
}

func markOpaque(root *os.File, claimed string) error {
	fd, err := unix.Openat2(int(root.Fd()), claimed, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return os.NewSyscallError("openat2", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("fsetxattr", unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0))
}

// syncFS waits until everything in the file system of dir is on disk.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}
