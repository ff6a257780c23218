package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/durable"
	"github.com/carrel-sh/carrel/sandbox/idrange"
)

func (m *Manager) containerDir(uid uint32) string {
	return filepath.Join(m.cfg.RunDir, "c", strconv.FormatUint(uint64(uid), 10))
}

func (m *Manager) userDir(uid uint32) string {
	return filepath.Join(m.cfg.StateDir, "users", strconv.FormatUint(uint64(uid), 10))
}

func (m *Manager) runtimeDir() string  { return filepath.Join(m.cfg.RunDir, "runtime") }
func (m *Manager) stageDir() string    { return filepath.Join(m.cfg.RunDir, "stage") }
func (m *Manager) skeletonDir() string { return filepath.Join(m.cfg.StateDir, "skeleton") }

// makeDirs makes the directories that all containers share.
func (m *Manager) makeDirs() error {
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{
		{m.cfg.StateDir, 0o711},
		{filepath.Join(m.cfg.StateDir, "users"), 0o700},
		// Nobody of the host has business there: what a user writes inside must not be
		// a file that a program on the host can be made to load.
		{filepath.Join(m.cfg.StateDir, "homes"), 0o700},
		{m.cfg.RunDir, 0o755},
		{filepath.Join(m.cfg.RunDir, "c"), 0o700},
		{m.runtimeDir(), 0o700},
		{m.stageDir(), 0o755},
	} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
		if err := os.Chmod(d.path, d.mode); err != nil { // whatever the umask
			return err
		}
	}
	if err := checkSearchable(m.cfg.RunDir); err != nil {
		return err
	}
	return m.makeSkeleton()
}

// checkSearchable refuses a directory that the container's own root, whose
// uid is nobody on the host, could not reach.
func checkSearchable(path string) error {
	for dir := path; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("directory %q must be searchable by all: chmod a+x %s", dir, dir)
		}
	}
	return nil
}

// makeSkeleton makes the layer that lies on top of every image: each place
// where something is mounted as a real directory, so that an image with a
// symlink there leads nobody astray (CVE-2025-52565, CVE-2026-41579).
func (m *Manager) makeSkeleton() error {
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{
		{"", 0o755}, {"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"proc", 0o555}, {"run", 0o755}, {"sys", 0o555},
		{"tmp", 0o777 | os.ModeSticky}, {"usr", 0o755},
	} {
		path := filepath.Join(m.skeletonDir(), d.name)
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(path, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// retireFormer puts aside what an account left whose uid now belongs to
// another name. The sign of its owner tells: it is of another range. It is kept
// for the administrator; nothing of it is ever used again. The signs go last, so
// that a crash in between leaves one standing.
func (m *Manager) retireFormer(uid uint32, now idrange.Range) error {
	owner, err := m.signOf(uid)
	if err != nil || owner == 0 || now.Contains(owner) {
		return err
	}
	id := strconv.FormatUint(uint64(uid), 10)
	for _, parent := range []string{"homes", "users"} {
		dir := filepath.Join(m.cfg.StateDir, parent, id)
		err := os.Rename(dir, fmt.Sprintf("%s.former-%d", dir, owner))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	m.log.Warn("uid has a new name; its former owner's files were put aside", "uid", uid)
	return m.dropSign(uid)
}

// Owner returns the name of the user to whom the files of uid belong, "" if nobody
// has had a container. Another who has the uid now gets their own at their first
// start, and until then nothing here is theirs.
func (m *Manager) Owner(uid uint32) string {
	entry, _ := m.ids.Lookup(uid)
	return entry.Name
}

// signOf returns an id of the range to which the files of uid belong, 0 if there is
// no sign of anybody. The owner of the layer is the sign, and where there is no
// layer, that of the note which keepSign left beside the home.
func (m *Manager) signOf(uid uint32) (uint32, error) {
	for _, path := range []string{filepath.Join(m.userDir(uid), "upper"), m.signFile(uid)} {
		var st unix.Stat_t
		err := unix.Lstat(path, &st)
		if err != nil && err != unix.ENOENT {
			return 0, &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if err == nil && st.Uid != 0 { // 0: a crash came before its owner was set
			return st.Uid, nil
		}
	}
	return 0, nil
}

func (m *Manager) signFile(uid uint32) string {
	_, home := m.Paths(uid)
	return home + ".owner"
}

// keepSign notes whose the private home is, before the layer that says so goes:
// an empty file with the layer's owner. A home that nobody vouches for would be
// the next one's who gets the uid.
func (m *Manager) keepSign(uid uint32) error {
	owner, err := m.signOf(uid)
	if err != nil || owner == 0 {
		return err
	}
	_, home := m.Paths(uid)
	if _, err := os.Lstat(home); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	path := m.signFile(uid)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chown(int(owner), int(owner)), f.Sync(), f.Close()); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// dropSign removes the note of a home that is gone.
func (m *Manager) dropSign(uid uint32) error {
	if err := os.Remove(m.signFile(uid)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// forgetIdentity removes the account files that carrel-init wrote into the
// user's layer at the last start, so that it writes them anew from the image's:
// another image has other accounts. The container does not run. Nothing below
// the layer is followed: its directory etc is a directory or left alone.
func forgetIdentity(upper string) error {
	root, err := os.Open(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	etc, err := unix.Openat2(int(root.Fd()), "etc", &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "openat2", Path: upper + "/etc", Err: err}
	}
	defer unix.Close(etc)
	for _, name := range []string{"passwd", "group", "hostname", "hosts"} {
		// Neither a directory in its place nor its absence matters.
		if err := unix.Unlinkat(etc, name, 0); err != nil && err != unix.ENOENT && err != unix.EISDIR {
			return &os.PathError{Op: "unlinkat", Path: upper + "/etc/" + name, Err: err}
		}
	}
	return nil
}

// writeJSON writes a file that appears whole or not at all.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
