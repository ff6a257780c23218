package sftpd

import (
	"fmt"
	"slices"
	"strings"
)

// requests are the names that -P, -p and -Q use, as OpenSSH's sftp-server
// knows them, with the packet's number.
var requests = map[byte]string{
	3: "open", 4: "close", 5: "read", 6: "write", 7: "lstat", 8: "fstat", 9: "setstat", 10: "fsetstat",
	11: "opendir", 12: "readdir", fxpRemove: "remove", fxpMkdir: "mkdir", fxpRmdir: "rmdir", fxpRealpath: "realpath", 17: "stat",
	fxpRename: "rename", 19: "readlink", 20: "symlink",
}

// An extension is one that we have: its name in -P and -p, on the wire, and the
// version that we tell.
type extension struct{ name, wire, version string }

var extensions = []extension{
	{"posix-rename", "posix-rename@openssh.com", "1"},
	{"statvfs", "statvfs@openssh.com", "2"},
	{"hardlink", "hardlink@openssh.com", "1"},
	{"expand-path", "expand-path@openssh.com", "1"},
}

// absent are OpenSSH's extensions that we do not have: to deny them is no
// mistake.
var absent = []string{
	"copy-data", "fstatvfs", "fsync", "home-directory", "limits", "lsetstat", "users-groups-by-id",
}

// names returns what -Q requests lists.
func names() []string {
	var all []string
	for _, name := range requests {
		all = append(all, name)
	}
	for _, e := range extensions {
		all = append(all, e.name)
	}
	slices.Sort(all)
	return all
}

// A filter says which requests are permitted; its zero value permits all.
type filter struct {
	denied  []string
	allowed []string // empty: all that is not denied
}

// check refuses a name to deny that nobody knows: it would deny nothing.
func (f filter) check() error {
	known := append(names(), absent...)
	for _, name := range f.denied {
		if !slices.Contains(known, name) {
			return fmt.Errorf("option -P: no request has the name %q; -Q requests lists them", name)
		}
	}
	return nil
}

func (f filter) permits(name string) bool {
	// The library's READDIR reads what OPEN opened, too.
	if name == "readdir" && !f.permits("opendir") {
		return false
	}
	return !slices.Contains(f.denied, name) && (len(f.allowed) == 0 || slices.Contains(f.allowed, name))
}

// nameOf returns the name of a request, and "" for one that has none: INIT, and
// what the library does not know and refuses by itself.
func nameOf(kind byte, wire string) string {
	if kind != fxpExtended {
		return requests[kind]
	}
	for _, e := range extensions {
		if e.wire == wire {
			return e.name
		}
	}
	return ""
}

func list(argument string) []string {
	return strings.FieldsFunc(argument, func(r rune) bool { return r == ',' })
}
