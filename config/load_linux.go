package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxFileBytes bounds the file; a thousand rules take about a tenth of it.
const maxFileBytes = 1 << 20

// Load reads the file at path, which must belong to root. A file that does not
// exist means Default. The error is a Problems when the file could be opened.
func Load(path string) (*Config, error) {
	return LoadOwnedBy(path, 0)
}

// LoadOwnedBy is Load for a file that must belong to uid instead of root. It
// is for tests.
func LoadOwnedBy(path string, uid uint32) (*Config, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Default(), nil
	case errors.Is(err, unix.ELOOP):
		return nil, Problems{{File: path, What: "is a symbolic link", Remedy: "put the file itself here"}}
	case err != nil:
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	problems, err := inspect(f, uid)
	if err != nil {
		return nil, err
	}
	if problems.hopeless {
		return nil, problems.Problems
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(data) > maxFileBytes {
		return nil, append(problems.Problems, tooLarge(path))
	}
	c, err := Parse(path, data)
	var more Problems
	if errors.As(err, &more) {
		return nil, append(problems.Problems, more...)
	}
	if len(problems.Problems) > 0 {
		return nil, problems.Problems
	}
	return c, err
}

// An inspection is what is wrong with a file before anybody reads it.
type inspection struct {
	Problems
	hopeless bool // reading it makes no sense
}

// inspect checks kind, size, owner and mode of the open file.
func inspect(f *os.File, uid uint32) (inspection, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return inspection{}, &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	var in inspection
	add := func(remedy, format string, args ...any) {
		in.Problems = append(in.Problems, Problem{File: f.Name(), What: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		add("put a regular file here", "is not a regular file")
		return inspection{Problems: in.Problems, hopeless: true}, nil
	}
	if st.Uid != uid {
		add(fmt.Sprintf("chown %d %s", uid, f.Name()), "belongs to uid %d, not to uid %d", st.Uid, uid)
	}
	if st.Mode&0o022 != 0 {
		add("chmod go-w "+f.Name(), "mode %#o lets others than the owner write", st.Mode&0o7777)
	}
	if st.Nlink > 1 {
		add("copy it to a file of its own", "has %d names (hard links)", st.Nlink)
	}
	if st.Size > maxFileBytes {
		in.Problems = append(in.Problems, tooLarge(f.Name()))
		in.hopeless = true
	}
	return in, nil
}

func tooLarge(path string) Problem {
	return Problem{
		File:   path,
		What:   fmt.Sprintf("is larger than %d bytes", maxFileBytes),
		Remedy: "name groups instead of users in the rules",
	}
}
