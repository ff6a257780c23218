package spawn

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// transferPath is carrel-transfer, which carrel-runtime puts into every
// container; toolsDir has it under the names that it goes by.
const (
	transferPath = "/run/.carrel/transfer"
	toolsDir     = "/run/.carrel/bin"
)

// sftpServers are the paths that an sshd of the host may pass for its
// subsystem sftp, from the distributions' sshd_config.
var sftpServers = []string{
	"internal-sftp",                       // under ForceCommand
	"/usr/lib/openssh/sftp-server",        // Debian, Ubuntu
	"/usr/lib/ssh/sftp-server",            // Arch, Alpine, SUSE
	"/usr/libexec/openssh/sftp-server",    // Fedora, RHEL
	"/usr/libexec/sftp-server",            // BSD
	"/usr/lib/misc/sftp-server",           // Gentoo
	"/usr/lib/sftp-server", "sftp-server", // others
}

// linkTools gives carrel-transfer its names.
func linkTools() {
	err := os.Mkdir(toolsDir, 0o755)
	for _, name := range []string{"sftp-server", "scp", "carrel"} {
		if err == nil {
			err = os.Symlink(transferPath, toolsDir+"/"+name)
		}
	}
	if err != nil {
		_, _ = os.Stderr.WriteString("carrel-init: " + err.Error() + "\n")
	}
}

// lend makes file transfer work in an image that has no program for it: where
// the command begins with an sftp-server that is not there, ours takes its
// place, and where there is no scp, ours is the last one in PATH. The command
// still is the shell's to run, as the user, inside: nothing is allowed by its
// text.
func lend(order *session.Spawn, exists func(string) bool) {
	program, rest, _ := strings.Cut(order.Command.Text, " ")
	if order.Command.HasText && slices.Contains(sftpServers, program) && !exists(program) {
		order.Command.Text = strings.TrimSuffix(toolsDir+"/sftp-server "+rest, " ")
	}
	if exists("/usr/bin/scp") || exists("/bin/scp") {
		return
	}
	for i, kv := range order.Env {
		if strings.HasPrefix(kv, "PATH=") {
			order.Env[i] = kv + ":" + toolsDir
		}
	}
}

// passOver has what sshd does with an rc file that it found in the host's home
// (do_rc_files in session.c), by the login shell, be done only where the
// container's home has the file, too: the user would otherwise be told on
// stderr at each login. The shell asks, for init cannot look into the home.
func passOver(order *session.Spawn) {
	rc, ok := strings.CutPrefix(order.Command.Text, "/bin/sh ")
	if ok && order.Command.HasText && strings.HasSuffix(rc, "/.ssh/rc") && rc == order.Home+"/.ssh/rc" {
		order.Command.Text = `/bin/sh -c 'test -e "$0" && exec /bin/sh "$0"; :' ` + rc
	}
}

func executable(path string) bool {
	return strings.HasPrefix(path, "/") && unix.Access(path, unix.X_OK) == nil
}
