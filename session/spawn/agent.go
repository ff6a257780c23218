package spawn

import (
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// agentPath is the user's agent socket: one path as long as the container
// lives, so that a shell in an old tmux finds the agent of a new login.
const agentPath = "/run/.carrel/agent.sock"

// An agent is the container's end of agent forwarding (ssh -A). A connection
// to the socket is handed out, as it is, to the newest session that brought an
// agent: the descriptor travels outward like all others, and carrelsh relays it
// to the socket that sshd gave its user. Init reads nothing of it.
//
// The socket is there while at least one session holds it.
type agent struct {
	controls *controls

	mu      sync.Mutex
	fd      int        // listener, if users > 0
	users   int        // sessions that have the socket or are about to
	holders []*control // newest last
}

// open makes the socket if nobody has it yet. False means that the session
// goes without.
func (a *agent) open(uid, gid int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users == 0 {
		fd, err := listenAgent(uid, gid)
		if err == nil {
			a.fd = fd
			err = a.controls.whenReady(fd, func() { a.accept(fd) })
		}
		if err != nil {
			_, _ = os.Stderr.WriteString("carrel-init: agent socket: " + err.Error() + "\n")
			return false
		}
	}
	a.users++
	return true
}

func listenAgent(uid, gid int) (int, error) {
	if err := unix.Unlink(agentPath); err != nil && err != unix.ENOENT {
		return -1, &os.PathError{Op: "unlink", Path: agentPath, Err: err}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: agentPath})
	if err == nil {
		// Nobody else of the container, until it is the user's.
		err = unix.Chmod(agentPath, 0o600)
	}
	if err == nil {
		err = unix.Lchown(agentPath, uid, gid)
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, &os.PathError{Op: "listen", Path: agentPath, Err: err}
	}
	return fd, nil
}

// close takes an open back.
func (a *agent) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users--; a.users == 0 {
		_ = unix.Unlink(agentPath)
		a.controls.forget(a.fd)
	}
}

// hold makes the session with this control socket the newest.
func (a *agent) hold(c *control) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holders = append(a.holders, c)
}

// drop takes the session off the list: its client has gone.
func (a *agent) drop(c *control) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(a.holders, c); i >= 0 {
		a.holders = slices.Delete(a.holders, i, i+1)
	}
}

// release ends a session's use of the socket.
func (a *agent) release(c *control) {
	a.drop(c)
	a.close()
}

// accept hands one connection to the newest session that takes it.
func (a *agent) accept(fd int) {
	conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return
	}
	defer unix.Close(conn)
	a.mu.Lock()
	holders := slices.Clone(a.holders)
	a.mu.Unlock()
	for _, c := range slices.Backward(holders) {
		if a.controls.pass(c, session.Agent(), conn) {
			return
		}
	}
}
