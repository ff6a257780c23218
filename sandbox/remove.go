package sandbox

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What a deletion takes at most, whatever the shape of the tree.
const (
	removeLevels = 16  // directories open one below the other
	removeNames  = 256 // names in memory of each
)

// removeTree deletes dir and what is below, which a user made: os.RemoveAll
// would keep a descriptor for each level of it, and mkdir(2) below a working
// directory takes any number of levels. Here, directories that lie too deep are
// renamed to the top first. No link is followed and no mount crossed. What can
// not be deleted stays, and the error says how much and one reason; the rest
// goes. It may be killed at any time, and goes on where it is called again.
func removeTree(dir string) error {
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	for {
		var r remover
		err := r.remove(parent, filepath.Base(dir))
		if err == nil || r.gone == 0 {
			return err
		}
		// What went may have made room for a rename that the file system refused.
	}
}

// A remover goes once through a tree.
type remover struct {
	top *os.File
	// deep is the first directory that was moved to the top. The others are moved
	// into it: a directory made for them could take the last inode, and the top
	// would be read over and over, which is slow if it once had a million entries.
	deep  *os.File
	gone  int   // entries deleted
	stuck int   // entries that cannot be
	cause error // of the first
}

func (r *remover) remove(parent *os.File, name string) (err error) {
	if r.top, err = openBelow(parent, name); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	defer r.top.Close()
	r.empty(r.top, 1)
	for r.deep != nil {
		dir := r.deep
		r.deep = nil
		r.empty(dir, 1)
		dir.Close()
		r.rmdir(r.top, dir.Name())
	}
	if r.stuck > 0 {
		return fmt.Errorf("%d entries stay; the first: %w", r.stuck, r.cause)
	}
	if err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return os.NewSyscallError("rmdir", err)
	}
	r.gone++
	return nil
}

// empty deletes what is in dir, the level-th of those open.
func (r *remover) empty(dir *os.File, level int) {
	for {
		unsafeNames, err := dir.Readdirnames(removeNames)
		for _, name := range unsafeNames {
			r.entry(dir, name, level)
		}
		if err != nil {
			if err != io.EOF {
				r.note("read", dir.Name(), err)
			}
			return
		}
	}
}

// entry deletes one entry of dir, or moves it to the top.
func (r *remover) entry(dir *os.File, unsafeName string, level int) {
	err := unix.Unlinkat(int(dir.Fd()), unsafeName, 0)
	if !errors.Is(err, unix.EISDIR) {
		r.note("unlink", unsafeName, err)
		return
	}
	if r.rmdir(dir, unsafeName) {
		return
	}
	if level == removeLevels {
		r.lift(dir, unsafeName)
		return
	}
	below, err := openBelow(dir, unsafeName)
	if err != nil {
		r.note("open", unsafeName, err)
		return
	}
	r.empty(below, level+1)
	below.Close()
	r.rmdir(dir, unsafeName)
}

// lift moves a directory of dir up, to be emptied when the way there is closed.
// The new name is one that no user can have taken.
func (r *remover) lift(dir *os.File, unsafeName string) {
	to, name := r.deep, rand.Text()
	if to == nil {
		to = r.top
	}
	if err := unix.Renameat(int(dir.Fd()), unsafeName, int(to.Fd()), name); err != nil {
		r.note("move up", unsafeName, err)
		return
	}
	if r.deep != nil {
		return
	}
	var err error
	if r.deep, err = openBelow(r.top, name); err != nil {
		r.deep = nil
		r.note("open", name, err)
	}
}

// rmdir deletes a directory, and returns false if there is something in it.
func (r *remover) rmdir(dir *os.File, name string) bool {
	err := unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
	if err == unix.ENOTEMPTY || err == unix.EEXIST {
		return false
	}
	r.note("rmdir", name, err)
	return true
}

// note counts what became of an entry. One that was gone already is none: two
// of us may work on one tree.
func (r *remover) note(op, unsafeName string, err error) {
	switch {
	case err == nil:
		r.gone++
	case !errors.Is(err, unix.ENOENT):
		if r.stuck++; r.cause == nil {
			r.cause = fmt.Errorf("%s %.60q: %w", op, unsafeName, err)
		}
	}
}

// openBelow opens a directory of dir, which is no link and no mount point.
func openBelow(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
