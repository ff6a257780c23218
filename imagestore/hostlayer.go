package imagestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sourceDeviceOnly marks a source of which only the device matters, so that
// installing a package in /usr does not make the layer again.
const sourceDeviceOnly = "//dev"

// The generated layer is small (half a megabyte on Debian); these bounds stop
// what an administrator put into an allowed directory by mistake.
const (
	maxHostFile    = 8 << 20
	maxHostSize    = 64 << 20
	maxHostEntries = 20000
	maxHostDepth   = 16
)

// hostLayer is the layer of the image `host` while it is made.
type hostLayer struct {
	ctx       context.Context // of the one call that makes the layer
	dst       string
	etc       *os.Root // the host's /etc
	size      int64
	recursive bool
	sources   []string
	manifest  []string // one line for each entry, for the digest
}

// newHostLayer fills the empty directory dst from the host's root.
func newHostLayer(ctx context.Context, root, dst string) (*hostLayer, error) {
	etc, err := os.OpenRoot(filepath.Join(root, "etc"))
	if err != nil {
		return nil, err
	}
	defer etc.Close()
	l := &hostLayer{ctx: ctx, dst: dst, etc: etc}
	if err := os.Chmod(dst, 0o755); err != nil {
		return nil, err
	}
	if err := l.addUsr(root); err != nil {
		return nil, err
	}
	for _, add := range []func() error{l.addSkeleton, l.addEtc, l.addGenerated} {
		if err := add(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// digest identifies the content: names, modes, bytes and link targets.
func (l *hostLayer) digest() Digest {
	slices.Sort(l.manifest)
	return digestBytes([]byte(strings.Join(l.manifest, "\n")))
}

func (l *hostLayer) note(kind, name string, mode fs.FileMode, content string) error {
	l.manifest = append(l.manifest, fmt.Sprintf("%s %q %o %q", kind, name, mode, content))
	if len(l.manifest) > maxHostEntries {
		return fmt.Errorf("more than %d entries below /etc", maxHostEntries)
	}
	return l.ctx.Err()
}

func (l *hostLayer) mkdir(name string, perm uint32) error {
	full := filepath.Join(l.dst, name)
	if err := os.Mkdir(full, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Not os.Chmod: the sticky bit has another place in an fs.FileMode.
	if err := unix.Chmod(full, perm); err != nil {
		return &os.PathError{Op: "chmod", Path: full, Err: err}
	}
	return l.note("dir", name, fs.FileMode(perm), "")
}

func (l *hostLayer) symlink(name, target string) error {
	if err := os.Symlink(target, filepath.Join(l.dst, name)); err != nil {
		return err
	}
	return l.note("link", name, 0, target)
}

// file writes at most maxHostFile bytes of r.
func (l *hostLayer) file(name string, perm fs.FileMode, r io.Reader) error {
	f, err := os.OpenFile(filepath.Join(l.dst, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum), io.LimitReader(r, maxHostFile+1))
	if err != nil {
		return err
	}
	if l.size += n; n > maxHostFile || l.size > maxHostSize {
		return fmt.Errorf("%q: more than %d bytes in a file, or %d in all, below /etc", name, maxHostFile, maxHostSize)
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return l.note("file", name, perm, hex.EncodeToString(sum.Sum(nil)))
}

// topLinks are the directories that a merged /usr took in
// (https://systemd.io/THE_CASE_FOR_THE_USR_MERGE, file-hierarchy(7)).
var topLinks = []struct {
	name     string
	required bool
}{
	{"bin", true}, {"sbin", true}, {"lib", true},
	{"lib32", false}, {"lib64", false}, {"libx32", false}, {"libo32", false},
}

// addUsr makes the mount point of /usr and the links into it.
func (l *hostLayer) addUsr(root string) error {
	for _, top := range topLinks {
		l.sources = append(l.sources, top.name)
		full := filepath.Join(root, top.name)
		target, err := os.Readlink(full)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !top.required:
			continue
		case err != nil:
			return fmt.Errorf("%q is not a link into /usr: the image host needs a host with merged /usr", full)
		case path.Join("/", target) != "/usr/"+top.name:
			return fmt.Errorf("%q leads to %q, not to usr/%s: the image host needs a host with merged /usr", full, target, top.name)
		}
		if err := l.symlink(top.name, "usr/"+top.name); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, "usr"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			l.sources = append(l.sources, path.Join("usr", e.Name())+sourceDeviceOnly)
		}
	}
	if l.recursive, err = hasSubmounts(filepath.Join(root, "usr")); err != nil {
		return err
	}
	return l.mkdir("usr", 0o755)
}

// hasSubmounts reports whether anything is mounted below dir (proc(5),
// mountinfo: the fifth field is the mount point).
func hasSubmounts(dir string) (bool, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			return true, nil
		}
	}
	return false, nil
}

// skeleton is the rest of a root directory, as hier(7) has it; parents first.
var skeleton = []struct {
	name string
	perm uint32
}{
	{"dev", 0o755}, {"proc", 0o555}, {"sys", 0o555}, {"run", 0o755}, {"tmp", 0o1777},
	{"home", 0o755}, {"root", 0o700}, {"mnt", 0o755}, {"opt", 0o755}, {"srv", 0o755}, {"media", 0o755},
	{"var", 0o755}, {"var/tmp", 0o1777}, {"var/log", 0o755}, {"var/lib", 0o755}, {"var/cache", 0o755},
	{"var/spool", 0o755}, {"var/mail", 0o755}, {"var/local", 0o755}, {"var/opt", 0o755},
	{"etc", 0o755},
}

func (l *hostLayer) addSkeleton() error {
	for _, d := range skeleton {
		if err := l.mkdir(d.name, d.perm); err != nil {
			return err
		}
	}
	return errors.Join(
		l.symlink("var/run", "/run"),
		l.symlink("var/lock", "/run/lock"),
		l.symlink("var/spool/mail", "../mail"),
	)
}

// addEtc copies what etcAllowed lists and everybody on the host may read.
func (l *hostLayer) addEtc() error {
	entries, err := fs.ReadDir(l.etc.FS(), ".")
	if err != nil {
		return err
	}
	l.sources = append(l.sources, "etc")
	for _, e := range entries {
		whole, parts := allowedIn(e.Name())
		if whole {
			parts = []string{e.Name()}
		}
		for _, name := range parts {
			if err := l.copyAllowed(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// allowedIn says what is allowed of the entry name of /etc: the whole, or
// some paths below it.
func allowedIn(name string) (whole bool, parts []string) {
	for _, pattern := range etcAllowed {
		head, rest, nested := strings.Cut(pattern, "/")
		if ok, err := path.Match(head, name); err != nil || !ok {
			continue
		}
		if !nested {
			return true, nil
		}
		parts = append(parts, path.Join(name, rest))
	}
	return false, parts
}

// copyAllowed copies a path of /etc. The directories above it are made first;
// each must itself be open to everybody.
func (l *hostLayer) copyAllowed(name string) error {
	parent := ""
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		if parent = path.Join(parent, part); parent == "." {
			break
		}
		l.sources = append(l.sources, path.Join("etc", parent))
		info, err := l.etc.Lstat(parent)
		if err != nil || !info.IsDir() || info.Mode()&0o001 == 0 {
			return nil
		}
		if err := l.mkdir(path.Join("etc", parent), 0o755); err != nil {
			return err
		}
	}
	return l.copyEntry(name, 0)
}

// copyEntry copies a file, a link, or a directory with what is in it. What is
// missing, not for everybody, or of another type is left out.
func (l *hostLayer) copyEntry(name string, depth int) error {
	info, err := l.etc.Lstat(name)
	if err != nil || depth > maxHostDepth {
		return nil //nolint:nilerr // gone since it was listed: left out
	}
	mode := info.Mode()
	switch {
	case mode.IsRegular() && mode&0o004 != 0:
		return l.copyFile(name)
	case mode.Type() == fs.ModeSymlink:
		// Not a source: a link is only ever replaced, which changes the
		// directory it is in, and that is one.
		target, err := l.etc.Readlink(name)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		return l.symlink(path.Join("etc", name), target)
	case mode.IsDir() && mode&0o005 == 0o005:
		return l.copyDir(name, depth)
	}
	l.sources = append(l.sources, path.Join("etc", name)) // it may become readable
	return nil
}

func (l *hostLayer) copyDir(name string, depth int) error {
	l.sources = append(l.sources, path.Join("etc", name))
	if err := l.mkdir(path.Join("etc", name), 0o755); err != nil {
		return err
	}
	entries, err := fs.ReadDir(l.etc.FS(), name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := l.copyEntry(path.Join(name, e.Name()), depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (l *hostLayer) copyFile(name string) error {
	l.sources = append(l.sources, path.Join("etc", name))
	f, err := l.etc.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o004 == 0 {
		return nil
	}
	return l.file(path.Join("etc", name), 0o644|info.Mode()&0o111, f)
}

// addGenerated writes what is not the host's.
func (l *hostLayer) addGenerated() error {
	return errors.Join(
		l.file("etc/passwd", 0o644, strings.NewReader(hostPasswd)),
		l.file("etc/group", 0o644, strings.NewReader(hostGroup)),
		l.file("etc/nsswitch.conf", 0o644, strings.NewReader(hostNsswitch)),
		l.symlink("etc/mtab", "../proc/self/mounts"),
	)
}
