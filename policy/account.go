package policy

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Ids that are not an account's.
const (
	rootID   = 0
	nobodyID = 65534     // and the kernel's overflow id: files of unmapped owners
	noID     = 1<<32 - 1 // (uid_t)-1 means "do not change" in setresuid(2) and chown(2)
	noID2    = 1<<32 - 2 // nobody of NFS in 32 bits
)

// A name is an object's label in paths, hostnames and units. This is what
// useradd makes, and what directory services make of "DOM\user@realm".
var namePattern = regexp.MustCompile(`^[a-z_][a-z0-9_.@\\-]{0,63}\$?$`)

// checkAccount refuses what no rule can admit.
func (p *Policy) checkAccount(a Account) *Refusal {
	refuse := func(code Code, cause string, args ...any) *Refusal { return newRefusal(a, code, cause, args...) }
	switch {
	case a.UID == rootID:
		return refuse(CodeRoot, "uid 0 would be root of the host")
	case a.UID == nobodyID:
		return refuse(CodeNobody, "uid %d is everybody's without an account", a.UID)
	case a.UID == noID || a.UID == noID2:
		return refuse(CodeReservedID, "uid %d is not an id", a.UID)
	case p.config.IDs.Contains(a.UID):
		return refuse(CodeManagedID, "uid %d belongs to a container", a.UID)
	case !namePattern.MatchString(a.Name):
		return refuse(CodeName, "the name does not match %s", namePattern)
	}
	return p.checkGroups(a)
}

// checkGroups refuses groups that would give a session files of the host's
// root, or of a container.
func (p *Policy) checkGroups(a Account) *Refusal {
	switch a.GID {
	case rootID, nobodyID, noID, noID2:
		return newRefusal(a, CodeGroup, "gid %d cannot be a primary group", a.GID)
	}
	if p.config.IDs.Contains(a.GID) {
		return newRefusal(a, CodeGroup, "gid %d belongs to a container", a.GID)
	}
	for _, g := range a.Groups {
		if g.GID == noID || p.config.IDs.Contains(g.GID) {
			return newRefusal(a, CodeGroup, "gid %d of group %q belongs to a container", g.GID, g.Name)
		}
	}
	return nil
}

// The host's own directories, which no home is or lies in. Homes below /var or
// /srv are common, so only parts of /var are here.
var systemDirs = []string{
	"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/nonexistent", "/proc", "/root", "/run",
	"/sbin", "/sys", "/tmp", "/usr", "/var/cache", "/var/empty", "/var/lib/carrel", "/var/log", "/var/run", "/var/spool",
	"/var/tmp",
}

// Directories that hold homes, and are none themselves.
var parentDirs = []string{"/", "/home", "/mnt", "/opt", "/srv", "/var", "/var/lib"}

// unusableHome says why dir cannot be a home directory, or "".
func unusableHome(dir string) string {
	switch {
	case !path.IsAbs(dir):
		return "is not an absolute path"
	case path.Clean(dir) != dir:
		return `has ".", ".." or a slash too many`
	case len(dir) > 4095:
		return "is too long"
	case !printable(dir):
		return "has characters that are not printable"
	case slices.Contains(parentDirs, dir):
		return "is not a user's own directory"
	}
	for _, system := range systemDirs {
		if dir == system || strings.HasPrefix(dir, system+"/") {
			return "lies in " + system
		}
	}
	return ""
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
