// Carrelsh is the login shell that opens a session in the user's own
// container. See carrelsh(1).
package main

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/attach"
)

// Set by the linker.
var (
	version    = "devel"
	socketPath = "/run/carrel/login.sock"
)

func main() {
	if unix.Getuid() != unix.Geteuid() || unix.Getgid() != unix.Getegid() {
		os.Exit(report(session.Setuid, ""))
	}
	shedRuntime(os.Args, os.Environ())
	if !openStandard() {
		os.Exit(session.Internal.Status())
	}
	call, ok := session.ParseInvocation(os.Args, os.Getenv, ownPath)
	switch {
	case !ok:
		os.Exit(report(session.Usage, ""))
	case call.Help || call.Version:
		os.Exit(inform(call))
	case call.Socket == "":
		call.Socket = socketPath
	}
	request := session.Request{Command: call.Command, Env: session.FilterEnv(os.Environ()), Umask: umask()}
	out := attach.Run(call.Socket, int(headConn), os.Getenv("SSH_AUTH_SOCK"), &request, notice)
	switch {
	case out.Failure != session.None:
		os.Exit(report(out.Failure, out.Detail))
	case out.Exit.Signal != 0:
		attach.Die(out.Exit.Signal)
		os.Exit(128 + int(out.Exit.Signal))
	}
	os.Exit(int(out.Exit.Status))
}
