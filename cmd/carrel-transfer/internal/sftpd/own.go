package sftpd

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mkdir makes a directory with the mode that the client asks for, less the
// umask.
func mkdir(r *reader) []byte {
	id, path := r.uint32(), r.text()
	mode := r.mode(0o777)
	if r.bad {
		return nil
	}
	return outcome(id, unix.Mkdir(path, mode))
}

// remove and rmdir take each only what it names. The library's take both, which
// would undo a denial of the other.
func remove(r *reader) []byte {
	id, path := r.uint32(), r.text()
	if r.bad {
		return nil
	}
	return outcome(id, unix.Unlink(path))
}

func rmdir(r *reader) []byte {
	id, path := r.uint32(), r.text()
	if r.bad {
		return nil
	}
	return outcome(id, unix.Rmdir(path))
}

// rename fails where the new name is taken. Clients that want to replace ask
// for posix-rename@openssh.com, which is the library's.
func rename(r *reader) []byte {
	id, from, to := r.uint32(), r.text(), r.text()
	if r.bad {
		return nil
	}
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	// A file system may not have the flag (renameat2(2)), NFS for one.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if _, err = os.Lstat(to); err == nil {
			err = unix.EEXIST
		} else if errors.Is(err, unix.ENOENT) {
			err = unix.Rename(from, to)
		}
	}
	return outcome(id, err)
}

// expandPath replaces a ~ or ~user in front by the home directory.
func expandPath(r *reader) []byte {
	id, _, path := r.uint32(), r.text(), r.text()
	if r.bad {
		return nil
	}
	path, err := expand(path)
	return resolved(id, path, err)
}

// realPath makes a path absolute and free of symbolic links.
func realPath(r *reader) []byte {
	id, path := r.uint32(), r.text()
	if r.bad {
		return nil
	}
	return resolved(id, path, nil)
}

func resolved(id uint32, path string, err error) []byte {
	if err == nil {
		path, err = resolve(path)
	}
	if err != nil {
		return outcome(id, err)
	}
	const one, noAttributes = uint32(1), uint32(0)
	return packet(fxpName, id, one, path, path, noAttributes)
}

// maxLinks is how many symbolic links the kernel follows (path_resolution(7)).
const maxLinks = 40

// resolve is realpath(3), but the last component need not exist: a client asks
// where a file will be.
func resolve(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		here, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = here + "/" + path // not cleaned: x/.. may be anywhere
	}
	for range maxLinks {
		real, err := filepath.EvalSymlinks(path)
		if !errors.Is(err, unix.ENOENT) {
			return real, err
		}
		path = strings.TrimRight(path, "/")
		slash := strings.LastIndexByte(path, '/')
		if slash < 0 {
			return "", err
		}
		directory, err := filepath.EvalSymlinks(path[:slash] + "/")
		if err != nil {
			return "", err
		}
		target, _ := os.Readlink(path)
		switch {
		case target == "": // no link, and nothing else either
			return filepath.Join(directory, path[slash+1:]), nil
		case strings.HasPrefix(target, "/"):
			path = target
		default:
			path = directory + "/" + target
		}
	}
	return "", unix.ELOOP
}

// expand is what -d and expand-path do with a ~ in front.
func expand(path string) (string, error) {
	tilde, rest, _ := strings.Cut(path, "/")
	name, ok := strings.CutPrefix(tilde, "~")
	if !ok {
		return path, nil
	}
	home, err := homeOf(name)
	return filepath.Join(home, rest), err
}

// homeOf returns the home directory of a user of the container; "" is ours.
func homeOf(name string) (string, error) {
	var u *user.User
	var err error
	if name == "" {
		u, err = user.Current()
	} else {
		u, err = user.Lookup(name)
	}
	if err != nil {
		return "", unix.ENOENT
	}
	return u.HomeDir, nil
}
