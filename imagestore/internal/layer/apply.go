package layer

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxID is the greatest owner an entry may have: containers have 65536 ids.
const MaxID = 65535

// maxNotes bounds the memory for names that are remembered until the end:
// directories for their times, opaque ones, devices.
const maxNotes = 64 << 20

// Options bound an archive and watch it.
type Options struct {
	MaxBytes   int64 // uncompressed, and of the files in it; required
	MaxEntries int64 // with directories that are implied; required
	// Progress is called now and then with the number of entries so far; an
	// error ends the work. Nil is not called.
	Progress func(entries int64) error
	// Device is called for each device node that is left out; nil is not.
	Device func(unsafePath string)
	// ratioFloor replaces defaultRatioFloor in tests.
	ratioFloor int64
}

// A Result is what became of an archive.
type Result struct {
	DiffID        [sha256.Size]byte // of the uncompressed archive
	SizeBytes     int64             // of the regular files
	Entries       int64
	Devices       int64
	DroppedXattrs int64
	// Opaque are the directories, by clean path, that hide the layers
	// below. Marking them takes a right in the initial user namespace, so
	// it is left to the caller.
	Opaque []string
}

// Apply applies the archive to the empty directory root. It needs the rights
// to give files away. After an error root is in an unknown state.
func Apply(root *os.File, archive io.Reader, opt Options) (Result, error) {
	defer runtime.KeepAlive(root) // only its number is used
	a := &applier{
		opt:      opt,
		tree:     newTree(root),
		dirTimes: make(map[string][2]unix.Timespec),
		opaque:   make(map[string]bool),
		devices:  make(map[string]bool),
		buf:      make([]byte, 256<<10),
	}
	defer a.tree.forget()
	var err error
	if a.stream, err = openStream(archive, opt, a.tick); err != nil {
		return Result{}, err
	}
	if err := a.entries(tar.NewReader(a.stream)); err != nil {
		return Result{}, err
	}
	if a.res.DiffID, err = a.stream.finish(); err != nil {
		return Result{}, err
	}
	return a.res, a.finish()
}

// applier is one call of Apply.
type applier struct {
	opt      Options
	tree     *tree
	stream   *stream
	res      Result
	dirTimes map[string][2]unix.Timespec
	opaque   map[string]bool
	devices  map[string]bool // clean paths of what was left out
	notes    int             // bytes of names in the three maps
	buf      []byte
}

func (a *applier) tick() error {
	if a.opt.Progress == nil {
		return nil
	}
	return a.opt.Progress(a.res.Entries)
}

func (a *applier) entries(tr *tar.Reader) error {
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return unexpected(err)
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		a.res.Entries++
		if n := a.res.Entries + a.tree.made; n > a.opt.MaxEntries {
			return fmt.Errorf("the archive has more than %d entries", a.opt.MaxEntries)
		}
		if err := a.entry(hdr, tr); err != nil {
			return fmt.Errorf("entry %.300q: %w", hdr.Name, unexpected(err))
		}
	}
}

// entry applies one entry.
func (a *applier) entry(hdr *tar.Header, content io.Reader) error {
	clean, err := cleanPath(hdr.Name)
	if err != nil {
		return err
	}
	if isAufs(clean) {
		return nil
	}
	if hdr.Typeflag != tar.TypeDir && strings.HasSuffix(hdr.Name, "/") {
		return errors.New("a slash at the end of what is no directory")
	}
	if hdr.Uid < 0 || hdr.Uid > MaxID || hdr.Gid < 0 || hdr.Gid > MaxID {
		return fmt.Errorf("owner %d:%d is not in 0 to %d", hdr.Uid, hdr.Gid, MaxID)
	}
	dir, base := splitPath(clean)
	switch {
	case strings.Contains("/"+dir, "/"+whiteoutPrefix):
		return errors.New("it is below a whiteout")
	case base == opaqueName:
		return a.markOpaque(hdr, clean)
	case strings.HasPrefix(base, whiteoutPrefix):
		return a.whiteout(hdr, dir, strings.TrimPrefix(base, whiteoutPrefix))
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return a.directory(hdr, clean)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return a.regular(hdr, clean, content)
	case tar.TypeSymlink:
		return a.symlink(hdr, clean)
	case tar.TypeLink:
		return a.hardLink(hdr, clean)
	case tar.TypeFifo:
		return a.fifo(hdr, clean)
	case tar.TypeChar, tar.TypeBlock:
		return a.device(clean)
	}
	return fmt.Errorf("its type %q is not known", hdr.Typeflag)
}

// note remembers a value for a clean path, within bounds.
func note[V any](a *applier, m map[string]V, clean string, v V) error {
	if _, known := m[clean]; !known {
		const overhead = 64 // of a map entry, about
		a.notes += len(clean) + overhead
	}
	if a.notes > maxNotes {
		return errors.New("the archive has too many long names")
	}
	m[clean] = v
	return nil
}

// checkMark refuses whiteouts of types that only a forger gives them. AUFS
// wrote them as hard links.
func checkMark(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeLink {
		return errors.New("a whiteout is an empty file")
	}
	return nil
}

// markOpaque notes that the directory of the entry hides what is below.
func (a *applier) markOpaque(hdr *tar.Header, clean string) error {
	if err := checkMark(hdr); err != nil {
		return err
	}
	if _, _, err := a.tree.parent(clean); err != nil { // makes the directory
		return err
	}
	dir, _ := splitPath(clean)
	return note(a, a.opaque, dir, true)
}

// whiteout hides name, of the layers below, in dir. What this layer itself
// has there stays, in whatever order the two come (layer.md: "Whiteout files
// MUST only apply to resources in lower/parent layers").
func (a *applier) whiteout(hdr *tar.Header, dir, name string) error {
	if err := checkMark(hdr); err != nil {
		return err
	}
	if name == "" || name == "." || name == ".." {
		return errors.New("a whiteout of no name")
	}
	clean := strings.TrimPrefix(dir+"/"+name, "/")
	fd, base, err := a.tree.parent(clean)
	if err != nil {
		return err
	}
	st, err := stat(fd, base)
	if err != nil {
		return err
	}
	switch {
	case st.Mode == 0:
		// Allowed in user namespaces: it is no device (mknod(2), Linux 5.8).
		return os.NewSyscallError("mknodat", unix.Mknodat(fd, base, unix.S_IFCHR, 0))
	case isDir(&st):
		return note(a, a.opaque, clean, true)
	}
	return nil
}

// makeRoom removes what is at the clean path and returns its directory.
func (a *applier) makeRoom(clean string) (dir int, base string, err error) {
	if clean == "" {
		return -1, "", errors.New("the root must be a directory")
	}
	dir, base, err = a.tree.parent(clean)
	if err != nil {
		return -1, "", err
	}
	st, err := stat(dir, base)
	if err != nil {
		return -1, "", err
	}
	delete(a.devices, clean)
	if st.Mode == 0 {
		return dir, base, nil
	}
	if err := a.tree.remove(clean); err != nil {
		return -1, "", err
	}
	return a.tree.parent(clean)
}

func (a *applier) directory(hdr *tar.Header, clean string) error {
	if clean != "" {
		if err := a.makeDirectory(clean); err != nil {
			return err
		}
	}
	fd, err := a.tree.openDir(clean, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := a.setOwnerMode(fd, hdr); err != nil {
		return err
	}
	if err := a.setXattrs(fd, hdr); err != nil {
		return err
	}
	// Set at the end, since entries below change them.
	return note(a, a.dirTimes, clean, times(hdr))
}

// makeDirectory makes a directory where none is.
func (a *applier) makeDirectory(clean string) error {
	fd, base, err := a.tree.parent(clean)
	if err != nil {
		return err
	}
	st, err := stat(fd, base)
	if err != nil || isDir(&st) {
		return err
	}
	if isWhiteout(&st) {
		// Removed below and made anew here: nothing may shine through.
		if err := note(a, a.opaque, clean, true); err != nil {
			return err
		}
	}
	if fd, base, err = a.makeRoom(clean); err != nil {
		return err
	}
	return os.NewSyscallError("mkdirat", unix.Mkdirat(fd, base, 0o700))
}

func (a *applier) regular(hdr *tar.Header, clean string, content io.Reader) error {
	if hdr.Size > a.opt.MaxBytes-a.res.SizeBytes {
		return fmt.Errorf("the files have more than %d bytes", a.opt.MaxBytes)
	}
	dir, base, err := a.makeRoom(clean)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if err := a.copyContent(f, content); err != nil {
		return err
	}
	// The order matters: chown(2) clears set-uid bits and capabilities.
	if err := a.setOwnerMode(fd, hdr); err != nil {
		return err
	}
	if err := a.setXattrs(fd, hdr); err != nil {
		return err
	}
	return setTimes(dir, base, times(hdr))
}

// copyContent writes a file. The holes of a sparse one are in no stream, so
// the expansion is looked at here too.
func (a *applier) copyContent(w io.Writer, content io.Reader) error {
	for {
		n, err := content.Read(a.buf)
		if _, err := w.Write(a.buf[:n]); err != nil {
			return err
		}
		a.res.SizeBytes += int64(n)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := a.stream.checkRatio(a.res.SizeBytes); err != nil {
			return err
		}
	}
}

func (a *applier) symlink(hdr *tar.Header, clean string) error {
	if n := len(hdr.Linkname); n == 0 || n > maxPath || strings.Contains(hdr.Linkname, "\x00") {
		return fmt.Errorf("its target has %d bytes, or a NUL", n)
	}
	dir, base, err := a.makeRoom(clean)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(hdr.Linkname, dir, base); err != nil {
		return os.NewSyscallError("symlinkat", err)
	}
	a.dropXattrs(hdr)
	return setOwnerTimes(dir, base, hdr)
}

func (a *applier) fifo(hdr *tar.Header, clean string) error {
	dir, base, err := a.makeRoom(clean)
	if err != nil {
		return err
	}
	if err := unix.Mknodat(dir, base, unix.S_IFIFO|0o600, 0); err != nil {
		return os.NewSyscallError("mknodat", err)
	}
	a.dropXattrs(hdr)
	if err := setOwnerTimes(dir, base, hdr); err != nil {
		return err
	}
	// It is a FIFO: nobody put a link there since.
	return os.NewSyscallError("fchmodat", unix.Fchmodat(dir, base, mode(hdr), 0))
}

// device leaves a device node out. What it would have replaced goes.
func (a *applier) device(clean string) error {
	if _, _, err := a.makeRoom(clean); err != nil {
		return err
	}
	a.res.Devices++
	if a.opt.Device != nil {
		a.opt.Device(clean)
	}
	return note(a, a.devices, clean, true)
}

// hardLink links to an earlier entry. Its owner, mode and times are those of
// that entry.
func (a *applier) hardLink(hdr *tar.Header, clean string) error {
	target, err := cleanPath(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("its target %.300q: %w", hdr.Linkname, err)
	}
	switch {
	case a.devices[target]:
		return a.device(clean)
	case target == clean:
		return errors.New("it is a hard link to itself")
	}
	dir, base, err := a.makeRoom(clean)
	if err != nil {
		return err
	}
	targetDir, targetBase := splitPath(target)
	fd, err := a.tree.openDir(targetDir, unix.O_PATH)
	if err != nil {
		return fmt.Errorf("its target %.300q: %w", hdr.Linkname, err)
	}
	defer unix.Close(fd)
	st, err := stat(fd, targetBase)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK, unix.S_IFIFO:
	default:
		return fmt.Errorf("its target %.300q is no file of this archive", hdr.Linkname)
	}
	// Without AT_SYMLINK_FOLLOW, a link to a symbolic link is to itself.
	return os.NewSyscallError("linkat", unix.Linkat(fd, targetBase, dir, base, 0))
}

// finish sets the times of directories and lists the opaque ones. A directory
// that a later entry replaced by something else is passed over.
func (a *applier) finish() error {
	for _, clean := range slices.Sorted(maps.Keys(a.dirTimes)) {
		fd, err := a.tree.openDir(clean, unix.O_RDONLY)
		if replaced(err) {
			continue
		}
		if err == nil {
			err = setTimes(fd, ".", a.dirTimes[clean])
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("entry %.300q: %w", clean, err)
		}
	}
	for _, clean := range slices.Sorted(maps.Keys(a.opaque)) {
		fd, err := a.tree.openDir(clean, unix.O_PATH)
		if replaced(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("entry %.300q: %w", clean, err)
		}
		unix.Close(fd)
		a.res.Opaque = append(a.res.Opaque, clean)
	}
	return nil
}

// replaced says that there is no directory any more.
func replaced(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, errParent) }
