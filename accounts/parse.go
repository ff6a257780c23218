package accounts

import (
	"slices"
	"strconv"
	"strings"
)

const (
	maxNameBytes = 256     // LOGIN_NAME_MAX
	maxGroups    = 1 << 16 // NGROUPS_MAX, which setgroups(2) takes
)

// notInName reports what is in no name: separators of the files, blanks and
// control characters. Bytes above ASCII are left to the policy.
func notInName(r rune) bool {
	return r <= ' ' || r == 0x7f || strings.ContainsRune(":,/", r)
}

// parseID parses a uid or gid: decimal digits only. moby/sys/user, which runc
// uses on images, takes what does not parse for 0; that would be root here.
func parseID(s string) (uint32, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' { // ParseUint takes no sign; be sure
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}

// parseAccount parses a line of passwd(5) and reports whether it is one. The
// lines of NIS, "+" and "-", are none, and neither are comments.
func parseAccount(line string) (Account, bool) {
	fields := strings.Split(trim(line), ":")
	if len(fields) != 7 {
		return Account{}, false
	}
	uid, okUID := parseID(fields[2])
	gid, okGID := parseID(fields[3])
	a := Account{Name: fields[0], UID: uid, GID: gid, Home: fields[5], Shell: fields[6]}
	return a, okUID && okGID && plausibleLine(a.Name)
}

// trim removes what glibc does not see either.
func trim(line string) string {
	return strings.TrimSuffix(strings.TrimLeft(line, " \t"), "\n")
}

// plausibleLine reports whether a line of the files may begin with name.
func plausibleLine(name string) bool {
	return name != "" && len(name) <= maxNameBytes && !strings.ContainsAny(name[:1], "+-#") && !strings.ContainsFunc(name, notInName)
}

// parseGroup parses a line of group(5) and reports whether it is one.
func parseGroup(line string) (g Group, members []string, ok bool) {
	fields := strings.Split(trim(line), ":")
	if len(fields) != 4 || !plausibleLine(fields[0]) {
		return Group{}, nil, false
	}
	gid, ok := parseID(fields[2])
	members = slices.DeleteFunc(strings.Split(fields[3], ","), func(m string) bool { return m == "" })
	return Group{Name: fields[0], GID: gid}, members, ok
}

// withPrimary returns the groups of an account: the primary one first, no
// number twice, and no more than the kernel takes.
func withPrimary(primary Group, more []Group) []Group {
	groups := []Group{primary}
	seen := map[uint32]bool{primary.GID: true}
	for _, g := range more {
		if !seen[g.GID] && len(groups) < maxGroups {
			seen[g.GID] = true
			groups = append(groups, g)
		}
	}
	return groups
}
