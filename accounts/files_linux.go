package accounts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxFileBytes bounds passwd and group each: half a million accounts.
const maxFileBytes = 64 << 20

// settle is how old a change must be before it can no longer be followed by
// one with the same time stamp: file systems take theirs from a clock that
// ticks as slowly as every 10 ms.
const settle = 100 * time.Millisecond

// A version tells two states of a file apart. The zero value is no file.
type version struct {
	dev, ino uint64
	size     int64
	mtime    unix.Timespec
	ctime    unix.Timespec
}

func (v version) changedSince(t time.Time) bool {
	return time.Unix(v.ctime.Unix()).After(t)
}

func newVersion(st *unix.Stat_t) version {
	return version{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// statVersion returns the zero version for a file that does not exist.
func statVersion(path string) (version, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return version{}, nil
	}
	if err != nil {
		return version{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return newVersion(&st), nil
}

// A snapshot is what the files say. Nobody changes it once it is made.
type snapshot struct {
	passwd, group version
	unsettled     bool // the files may change again without a new version

	ids     map[uint32][]Account // without groups
	names   map[string][]Account
	groups  map[uint32]Group   // the first of each number, as in getgrgid(3)
	members map[string][]Group // by name of the member
}

// current returns the snapshot of the files as they are now.
func (s *Source) current() (*snapshot, error) {
	passwd, err := statVersion(s.passwdPath())
	if err != nil {
		return nil, err
	}
	group, err := statVersion(s.groupPath())
	if err != nil {
		return nil, err
	}
	if files := s.files.Load(); files.is(passwd, group) {
		return files, nil
	}
	s.filesMu.Lock()
	defer s.filesMu.Unlock()
	if files := s.files.Load(); files.is(passwd, group) {
		return files, nil
	}
	files, err := s.read()
	if err != nil {
		return nil, err
	}
	s.files.Store(files)
	return files, nil
}

// is reports whether f, which may be nil, still holds for these versions.
func (f *snapshot) is(passwd, group version) bool {
	return f != nil && !f.unsettled && f.passwd == passwd && f.group == group
}

func (s *Source) passwdPath() string { return orDefault(s.PasswdPath, "/etc/passwd") }
func (s *Source) groupPath() string  { return orDefault(s.GroupPath, "/etc/group") }

func orDefault(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// read parses both files.
func (s *Source) read() (*snapshot, error) {
	start := time.Now()
	passwd, passwdVersion, err := readFile(s.passwdPath())
	if err != nil {
		return nil, err
	}
	group, groupVersion, err := readFile(s.groupPath())
	if err != nil {
		return nil, err
	}
	f := &snapshot{
		passwd: passwdVersion, group: groupVersion,
		unsettled: passwdVersion.changedSince(start.Add(-settle)) || groupVersion.changedSince(start.Add(-settle)),
		ids:       map[uint32][]Account{}, names: map[string][]Account{},
		groups: map[uint32]Group{}, members: map[string][]Group{},
	}
	for line := range strings.Lines(passwd) {
		if a, ok := parseAccount(line); ok {
			f.add(a)
		}
	}
	for line := range strings.Lines(group) {
		g, members, ok := parseGroup(line)
		if !ok {
			continue
		}
		if _, known := f.groups[g.GID]; !known {
			f.groups[g.GID] = g
		}
		for _, m := range members {
			f.members[m] = append(f.members[m], g)
		}
	}
	return f, nil
}

// add notes an account. The same line twice is one account.
func (f *snapshot) add(a Account) {
	same := func(b Account) bool { return a.Name == b.Name && a.UID == b.UID }
	if slices.ContainsFunc(f.ids[a.UID], same) {
		return
	}
	f.ids[a.UID] = append(f.ids[a.UID], a)
	f.names[a.Name] = append(f.names[a.Name], a)
}

// byID returns the account of uid.
func (f *snapshot) byID(uid uint32) (Account, error) { return f.only(f.ids[uid]) }

// byName returns the account called name.
func (f *snapshot) byName(name string) (Account, error) { return f.only(f.names[name]) }

// only returns the single account of the list, with groups, if its name and
// its uid are its own.
func (f *snapshot) only(list []Account) (Account, error) {
	if len(list) == 0 {
		return Account{}, ErrNotFound
	}
	a := list[0]
	if shared := append(slices.Clone(f.ids[a.UID]), f.names[a.Name]...); len(shared) > 2 {
		return Account{}, ambiguous(shared)
	}
	primary, ok := f.groups[a.GID]
	if !ok {
		primary = Group{GID: a.GID}
	}
	a.Groups = withPrimary(primary, f.members[a.Name])
	return a, nil
}

// ambiguous names the accounts that are in each other's way.
func ambiguous(list []Account) error {
	var names []string
	for _, a := range list {
		names = append(names, fmt.Sprintf("%q (uid %d)", a.Name, a.UID))
	}
	slices.Sort(names)
	return fmt.Errorf("%w: %s", ErrAmbiguous, strings.Join(slices.Compact(names), ", "))
}

// readFile returns the text of the file and which version it was. A file that
// does not exist is empty.
func readFile(path string) (string, version, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", version{}, nil
	}
	if err != nil {
		return "", version{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", version{}, &os.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxFileBytes {
		return "", version{}, fmt.Errorf("read %q: not a regular file of at most %d bytes", path, maxFileBytes)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return "", version{}, err
	}
	return string(text), newVersion(&st), nil
}
