package scp

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A sink writes what the client sends.
type sink struct {
	*peer
	recursive, preserve bool
	mask                uint32 // umask(2) of the process
}

// run receives below the one target. It returns what ended the transfer early;
// what was refused on the way is in failed.
func (s *sink) run(targets []string, mustBeDirectory bool) error {
	if len(targets) != 1 {
		return s.end(errors.New("ambiguous target"))
	}
	info, err := os.Stat(targets[0])
	isDirectory := err == nil && info.IsDir()
	if mustBeDirectory && !isDirectory {
		if err == nil {
			err = syscall.ENOTDIR
		}
		return s.end(errors.New(targets[0] + ": " + reason(err)))
	}
	return s.end(s.receive(targets[0], isDirectory, nil))
}

// end tells the client why it is over, if it is there to hear it.
func (s *sink) end(err error) error {
	if err != nil {
		_ = s.refuse(err.Error())
	}
	return err
}

// receive takes records until the directory ends: by an E record, which leave
// is called for and then answered, or at the top, where leave is nil, by end of
// file.
func (s *sink) receive(target string, isDirectory bool, leave func() error) error {
	if err := s.accept(); err != nil {
		return err
	}
	var times *record // of what comes next
	for {
		unsafeLine, err := s.line()
		switch {
		case errors.Is(err, io.EOF) && leave == nil:
			return nil
		case errors.Is(err, io.EOF):
			return errLost
		case err != nil:
			return err
		case bytes.HasPrefix(unsafeLine, []byte{1}):
			s.failed = true // the client could not read something
			continue
		case bytes.HasPrefix(unsafeLine, []byte{2}):
			return errors.New("the other side ended it")
		}
		r, err := parseRecord(unsafeLine)
		if err != nil {
			return err
		}
		path := target
		if isDirectory {
			path = join(target, r.name)
		}
		switch r.kind {
		case 'E':
			return s.leave(target, leave)
		case 'T':
			times = &r
			err = s.accept()
		case 'D':
			err = s.directory(path, r, times)
			times = nil
		case 'C':
			err = s.file(path, r, times)
			times = nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *sink) leave(path string, leave func() error) error {
	if leave != nil {
		if err := leave(); err != nil {
			return s.refuse(path + ": " + reason(err))
		}
	}
	return s.accept()
}

// directory makes path, or takes the one that is there, and receives into it.
func (s *sink) directory(path string, r record, times *record) error {
	if !s.recursive {
		return protocolError("received directory without -r")
	}
	mode := s.mode(r.mode)
	info, err := os.Stat(path)
	exists := err == nil
	switch {
	case exists && !info.IsDir():
		err = syscall.ENOTDIR
	case exists && s.preserve:
		err = os.Chmod(path, fileMode(mode|0o700))
	case !exists:
		err = unix.Mkdir(path, mode|0o700) // writable until it is full
	}
	if err != nil {
		return s.refuse(path + ": " + reason(err))
	}
	return s.receive(path, true, func() error {
		// Without -p the mode is set only where it has to be, so that a bit
		// that came from the directory above (set-gid) stays.
		var err error
		if s.preserve || !exists && mode&0o700 != 0o700 {
			err = os.Chmod(path, fileMode(mode))
		}
		if err == nil && times != nil {
			err = setTimes(path, times)
		}
		return err
	})
}

// file receives one file into path. What goes wrong with the file is answered
// after its bytes, which are read in any case; the error is the connection's.
func (s *sink) file(path string, r record, times *record) error {
	info, err := os.Stat(path)
	exists := err == nil
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, fileMode(s.mode(r.mode)&0o777|0o200))
	if err != nil {
		return s.refuse(path + ": " + reason(err))
	}
	defer f.Close()
	if err := s.accept(); err != nil {
		return err
	}
	broken, err := s.copy(f, r.size)
	if err != nil {
		return err
	}
	if broken == nil && (!exists || info.Mode().IsRegular()) {
		broken = f.Truncate(r.size)
	}
	// An existing file keeps its mode, unless -p or a source that is read-only
	// says otherwise: so does OpenSSH.
	if broken == nil && (s.preserve || !exists || r.mode&0o200 == 0) {
		broken = f.Chmod(fileMode(s.mode(r.mode)))
	}
	if err := f.Close(); broken == nil {
		broken = err
	}
	if broken == nil && times != nil {
		broken = setTimes(path, times)
	}
	if _, err := s.response(); err != nil {
		return err
	}
	if broken != nil {
		return s.refuse(path + ": " + reason(broken))
	}
	return s.accept()
}

// copy moves size bytes from the client to f. After broken, the first error of
// f, it only reads.
func (s *sink) copy(f io.Writer, size int64) (broken, err error) {
	for size > 0 {
		if _, err := s.in.Peek(1); err != nil { // fills the buffer
			return broken, errLost
		}
		b, err := s.in.Peek(int(min(size, int64(s.in.Buffered()))))
		if err != nil {
			return broken, errLost
		}
		if broken == nil {
			_, broken = f.Write(b)
		}
		if _, err := s.in.Discard(len(b)); err != nil {
			return broken, errLost
		}
		size -= int64(len(b))
	}
	return broken, nil
}

// mode is what the client's mode becomes. Without -p, set-uid, set-gid and
// sticky are not for a copy to have.
func (s *sink) mode(claimed uint32) uint32 {
	if s.preserve {
		return claimed
	}
	return claimed & 0o777 &^ s.mask
}

// join is directory/name; filepath.Join would clean "x/.." away, which is
// another place where x is a symbolic link.
func join(directory, name string) string {
	return strings.TrimSuffix(directory, string(filepath.Separator)) + "/" + name
}

// setTimes is by time_t, not by nanoseconds in an int64, which end in 2262.
func setTimes(path string, r *record) error {
	var both [2]unix.Timespec
	for i, t := range []time.Time{r.atime, r.mtime} {
		var err error
		if both[i], err = unix.TimeToTimespec(t); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, both[:], 0)
}

// fileMode turns the kernel's bits into Go's.
func fileMode(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits & 0o777)
	for bit, m := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= m
		}
	}
	return mode
}
