package layer

import (
	"archive/tar"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// paxXattr starts the keys of extended attributes in PAX records.
const paxXattr = "SCHILY.xattr."

// mode returns the twelve bits of chmod(2).
func mode(hdr *tar.Header) uint32 { return uint32(hdr.Mode) & 0o7777 }

// times returns access and modification time, both the latter.
func times(hdr *tar.Header) [2]unix.Timespec {
	ts := unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
	return [2]unix.Timespec{ts, ts}
}

// setTimes sets the times of base in dir.
func setTimes(dir int, base string, ts [2]unix.Timespec) error {
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(dir, base, ts[:], unix.AT_SYMLINK_NOFOLLOW))
}

// setOwnerMode sets what chown(2) and chmod(2) set, in that order.
func (a *applier) setOwnerMode(fd int, hdr *tar.Header) error {
	if err := unix.Fchown(fd, hdr.Uid, hdr.Gid); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	return os.NewSyscallError("fchmod", unix.Fchmod(fd, mode(hdr)))
}

// setOwnerTimes is for what cannot be opened: links and FIFOs.
func setOwnerTimes(dir int, base string, hdr *tar.Header) error {
	if err := unix.Fchownat(dir, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fchownat", err)
	}
	return setTimes(dir, base, times(hdr))
}

// setXattrs sets the attributes that belong to a layer and counts the others.
func (a *applier) setXattrs(fd int, hdr *tar.Header) error {
	for _, key := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if !xattrKept(name) {
			a.res.DroppedXattrs++
			continue
		}
		err := unix.Fsetxattr(fd, name, []byte(hdr.PAXRecords[key]), 0)
		if err == unix.ENOTSUP { // the file system has none
			a.res.DroppedXattrs++
			continue
		}
		if err != nil {
			return os.NewSyscallError("fsetxattr", err)
		}
	}
	return nil
}

// dropXattrs counts the attributes of an entry that can have none
// (xattr(7): user.* is for regular files and directories).
func (a *applier) dropXattrs(hdr *tar.Header) {
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, paxXattr) {
			a.res.DroppedXattrs++
		}
	}
}
