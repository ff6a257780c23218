package main

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// shedRuntime starts the program anew without the variables that rule the Go
// runtime. It returns if there is none of them.
func shedRuntime(argv, env []string) {
	clean := make([]string, 0, len(env))
	for _, kv := range env {
		if !session.RulesRuntime(kv) {
			clean = append(clean, kv)
		}
	}
	if len(clean) < len(env) && len(argv) > 0 {
		_ = unix.Exec("/proc/self/exe", argv, clean)
	}
}

// openStandard makes sure that descriptors 0, 1 and 2 are open, so that none
// that we open takes their place and is written on by mistake.
func openStandard() bool {
	for fd := 0; fd <= 2; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			continue
		}
		// The lowest free descriptor is fd, for those below are open.
		if got, err := unix.Open("/dev/null", unix.O_RDWR, 0); err != nil || got != fd {
			return false
		}
	}
	return true
}

// ownPath says that the command is this program by its absolute path.
func ownPath(command string) bool {
	if !strings.HasPrefix(command, "/") {
		return false
	}
	var named, own unix.Stat_t
	if unix.Stat(command, &named) != nil || unix.Stat("/proc/self/exe", &own) != nil {
		return false
	}
	return named.Dev == own.Dev && named.Ino == own.Ino
}

// umask returns the process's mask; there is no way to ask but to set it.
func umask() uint16 {
	mask := unix.Umask(0o077)
	unix.Umask(mask)
	return uint16(mask & 0o777)
}

// say writes a line for a person: on stderr, and only if it is a terminal or
// the line is an error.
func say(line string) { _, _ = os.Stderr.WriteString("carrel: " + line + "\n") }

// notice tells what is no error; a program that reads stderr is left alone.
func notice(sentence string) {
	if _, err := unix.IoctlGetTermios(2, unix.TCGETS); err == nil {
		say(sentence)
	}
}

func report(f session.Failure, detail string) int {
	say(f.Sentence(detail))
	return f.Status()
}

// inform answers --help and --version.
func inform(c session.Invocation) int {
	if c.Version {
		_, _ = os.Stdout.WriteString("carrelsh " + version + "\n")
		return 0
	}
	_, _ = os.Stdout.WriteString(session.Usage.Sentence("") + `

The login shell that opens a session in your own container.

  -l, --login     make it a login shell, as an argv[0] with a leading '-' does
  -c COMMAND      run COMMAND by the container's shell; NAME and ARGs are its $0, $1 ...
      --socket P  ask the daemon at P instead of the built-in socket
      --version   print the version

See carrelsh(1) for exit statuses.
`)
	return 0
}
