package spawn

import (
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// maxAccounts bounds the image's passwd and group: a file of gigabytes must
// not take the container's memory (CVE-2026-47262).
const maxAccounts = 1 << 20

// writeAccounts puts the user into the image's account files and names the
// host. It is done here, inside, as root of the container, so that no process
// of the host ever opens a path of an image. A fault, such as a full disk or a
// strange /etc, costs the user a name in ls -l and not the login; it is
// reported on stderr, which is a log of the host.
func writeAccounts(boot *session.Boot) {
	if boot.Passwd != "" {
		update("/etc/passwd", 0o644, func(old string) string { return mergeLines(old, []string{boot.Passwd}) })
	}
	if len(boot.Groups) > 0 {
		update("/etc/group", 0o644, func(old string) string { return mergeLines(old, boot.Groups) })
	}
	if boot.Hostname != "" {
		update("/etc/hostname", 0o644, func(string) string { return boot.Hostname + "\n" })
		update("/etc/hosts", 0o644, func(old string) string { return mergeHosts(old, boot.Hostname) })
	}
}

// update replaces the file's content by a rename, if it changes. Where the
// file was anything but a regular file, it counts as empty.
func update(path string, mode uint32, change func(string) string) {
	old := readSmall(path)
	content := change(old)
	if content == old {
		return
	}
	if err := replace(path, mode, content); err != nil {
		_, _ = os.Stderr.WriteString("carrel-init: " + err.Error() + "\n")
	}
}

func readSmall(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	if err != nil || len(b) == maxAccounts {
		return ""
	}
	return string(b)
}

func replace(path string, mode uint32, content string) error {
	temp := path + ".carrel"
	_ = unix.Unlink(temp)
	fd, err := unix.Open(temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return &os.PathError{Op: "create", Path: temp, Err: err}
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = f.WriteString(content)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = unix.Unlink(temp)
	}
	return err
}

// mergeLines returns old with the lines added, each in the place of those that
// have its name (first field) or its id (third field).
func mergeLines(old string, lines []string) string {
	taken := make(map[string]bool, 2*len(lines))
	for _, line := range lines {
		name, id := nameAndID(line)
		taken["n"+name], taken["i"+id] = true, true
	}
	var b strings.Builder
	for line := range strings.Lines(old) {
		line = strings.TrimSuffix(line, "\n")
		name, id := nameAndID(line)
		if name != "" && !taken["n"+name] && !taken["i"+id] {
			b.WriteString(line + "\n")
		}
	}
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func nameAndID(line string) (name, id string) {
	fields := strings.SplitN(line, ":", 4)
	if len(fields) < 3 {
		return "", ""
	}
	return fields[0], fields[2]
}

// mergeHosts makes the host's own name resolve, which sudo, hostname -f and
// many build tools want, and leaves a file alone that has it.
func mergeHosts(old, hostname string) string {
	for line := range strings.Lines(old) {
		for i, field := range strings.Fields(line) {
			if i > 0 && field == hostname {
				return old
			}
		}
	}
	if old == "" {
		old = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	}
	return old + "127.0.1.1\t" + hostname + "\n"
}
