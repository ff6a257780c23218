package scp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A source sends what the client asks for.
type source struct {
	*peer
	recursive, preserve bool
	buffer              [chunk]byte
}

// run sends each of the paths. The shell that called us has expanded patterns.
// It returns what ended the transfer early; what could not be read is in failed.
func (s *source) run(paths []string) error {
	if _, err := s.response(); err != nil { // the sink is ready
		return err
	}
	for _, path := range paths {
		if err := s.item(path); err != nil {
			return err
		}
	}
	return nil
}

// item sends a file, or a directory with all below. Symbolic links are
// followed; a loop ends where the kernel says ELOOP or ENAMETOOLONG.
func (s *source) item(path string) error {
	if trimmed := strings.TrimRight(path, "/"); trimmed != "" {
		path = trimmed
	} else if path != "" {
		path = "/"
	}
	// O_NONBLOCK: a FIFO is refused below, not waited for.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return s.refuse(path + ": " + reason(err))
	}
	defer f.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return s.refuse(path + ": " + reason(err))
	}
	switch kind := stat.Mode & unix.S_IFMT; {
	case kind == unix.S_IFREG:
		return s.file(f, path, &stat)
	case kind == unix.S_IFDIR && s.recursive:
		return s.directory(f, path, &stat)
	}
	return s.refuse(path + ": not a regular file")
}

// announce sends the record of a file or directory. refused says that the
// client does not want it.
func (s *source) announce(kind byte, path string, stat *unix.Stat_t, size int64) (refused bool, err error) {
	if s.preserve {
		record := fmt.Sprintf("T%d 0 %d 0\n", max(stat.Mtim.Sec, 0), max(stat.Atim.Sec, 0))
		if err := s.send(record); err != nil {
			return false, err
		}
		if refused, err := s.response(); refused || err != nil {
			return refused, err
		}
	}
	// Not the sticky bit: OpenSSH does not send it.
	if err := s.send(fmt.Sprintf("%c%04o %d %s\n", kind, stat.Mode&0o6777, size, wireName(path))); err != nil {
		return false, err
	}
	return s.response()
}

func (s *source) file(f io.Reader, path string, stat *unix.Stat_t) error {
	if refused, err := s.announce('C', path, stat, stat.Size); refused || err != nil {
		return err
	}
	broken, err := s.copy(f, stat.Size)
	if err != nil {
		return err
	}
	if broken != nil {
		err = s.refuse(path + ": " + reason(broken))
	} else {
		err = s.accept()
	}
	if err != nil {
		return err
	}
	_, err = s.response()
	return err
}

// copy sends size bytes of f, and zeros from where f breaks or ends early: the
// client counts.
func (s *source) copy(f io.Reader, size int64) (broken, err error) {
	for size > 0 {
		b := s.buffer[:min(size, chunk)]
		if broken == nil {
			n, err := io.ReadFull(f, b)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("file shrank while it was read")
			}
			broken = err
			clear(b[n:])
		} else {
			clear(b)
		}
		if _, err := s.out.Write(b); err != nil {
			return broken, err
		}
		size -= int64(len(b))
	}
	return broken, nil
}

func (s *source) directory(f *os.File, path string, stat *unix.Stat_t) error {
	if refused, err := s.announce('D', path, stat, 0); refused || err != nil {
		return err
	}
	for {
		names, err := f.Readdirnames(128)
		for _, name := range names {
			if err := s.item(join(path, name)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if err := s.refuse(path + ": " + reason(err)); err != nil {
				return err
			}
			break
		}
	}
	if err := s.send("E\n"); err != nil {
		return err
	}
	_, err := s.response()
	return err
}

// wireName is the last component, with a newline as vis(3) writes it, for it
// would end the record.
func wireName(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 && path != "/" {
		path = path[i+1:]
	}
	return strings.ReplaceAll(path, "\n", `\^J`)
}
