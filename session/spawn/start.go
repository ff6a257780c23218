package spawn

import (
	"errors"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// ends are the descriptors of a new session: what its first process gets as
// 0, 1 and 2, and what goes out to the client. All are close-on-exec.
type ends struct {
	inside  [3]int
	outward []int
	control int // ours
	tty     string
}

// start makes the session's ends and starts its first process. It returns nil
// and a reply with a Failure if that did not go; else the descriptors to hand
// out, which are the caller's.
func (s *Server) start(order *session.Spawn, version uint8) (*live, []int, *session.Reply) {
	lend(order, executable)
	passOver(order)
	e, err := open(order)
	if err != nil {
		return nil, nil, &session.Reply{Failure: session.Internal}
	}
	defer e.closeInside()
	l := &live{server: s, tty: order.Streams.Tty, killRest: order.KillRest, id: order.ID, uid: order.UID, terminal: e.tty}
	l.control = &control{fd: e.control, version: version, hear: l.hear}
	if order.Agent {
		// Before the fork, so that the socket is there when the shell looks, and
		// whoever connects to it at once finds the session.
		if l.agent = s.agent.open(int(order.UID), int(order.GID)); l.agent {
			s.agent.hold(l.control)
		}
	}
	if s.newLeaf != nil {
		if l.leaf, err = s.newLeaf(leafName(order.ID)); err != nil {
			l.leaf = nil
			s.giveUp(l, e)
			return nil, nil, &session.Reply{Failure: session.Internal}
		}
	}
	shell, failure := s.fork(order, e, l)
	if failure != session.None {
		s.giveUp(l, e)
		return nil, nil, &session.Reply{Failure: failure}
	}
	reply := &session.Reply{}
	if shell != order.Shells[0] {
		reply.Shell = shell
	}
	return l, e.outward, reply
}

// giveUp takes back what start made for a session that does not come about.
func (s *Server) giveUp(l *live, e *ends) {
	if l.agent {
		s.agent.release(l.control)
		s.controls.abandon(l.control)
	}
	e.closeOutward()
	if l.leaf != nil {
		s.discard(l.leaf)
	}
}

// fork runs the first shell that can be executed.
func (s *Server) fork(order *session.Spawn, e *ends, l *live) (string, session.Failure) {
	defer s.still()()
	s.controls.within(forkTime)
	defer s.controls.within(0)
	if l.leaf != nil && l.leaf.FD() < 0 {
		if err := l.leaf.Enter(); err != nil {
			return "", session.Internal
		}
	}
	unix.Umask(int(order.Umask))
	defer unix.Umask(0o022)
	shell, pid, failure := execFirst(order, e, l, s.reaper)
	l.pid = pid
	return shell, failure
}

// still keeps the Go runtime from stopping the world until its result is
// called. A fork holds its thread in the kernel until the child has executed
// something, and Go cannot interrupt it there: whatever waited for it to stop,
// a garbage collection above all, would keep every other thread waiting, too,
// the one that hears the alarm among them. A process of the user's that stops
// the child would so stop PID 1.
func (s *Server) still() func() {
	s.collecting.Lock()
	percent := debug.SetGCPercent(-1) // returns when no collection runs
	return func() {
		debug.SetGCPercent(percent)
		s.collecting.Unlock()
	}
}

// execFirst tries the shells in turn, in the home and, if nothing can be
// executed from there, in "/": a home that cannot be entered must not cost
// the login.
func execFirst(order *session.Spawn, e *ends, l *live, r *reaper) (string, int, session.Failure) {
	attr := &syscall.ProcAttr{
		Files: []uintptr{uintptr(e.inside[0]), uintptr(e.inside[1]), uintptr(e.inside[2])},
		Sys: &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: order.UID, Gid: order.GID, Groups: order.Groups},
			Setsid:     true,
			Setctty:    order.Streams.Tty,
			Ctty:       0,
		},
	}
	if l.leaf != nil && l.leaf.FD() >= 0 {
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, l.leaf.FD()
	}
	failure := session.NoShell
	for _, dir := range []string{order.Home, "/"} {
		for _, shell := range order.Shells {
			attr.Dir, attr.Env = dir, environ(order, shell, e.tty, l.agent)
			pid, err := r.fork(func() (int, error) { return syscall.ForkExec(shell, argv(order, shell), attr) })
			switch {
			case err == nil:
				return shell, pid, session.None
			case errors.Is(err, unix.EAGAIN): // fork(2): pids.max or RLIMIT_NPROC
				return "", 0, session.ProcessLimit
			case errors.Is(err, unix.E2BIG):
				return "", 0, session.TooLong
			case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			default:
				failure = session.NotExecutable
			}
		}
	}
	return "", 0, failure
}

// argv is the shell's: a leading '-' says login (bash(1), INVOCATION).
func argv(order *session.Spawn, shell string) []string {
	name := path.Base(shell)
	if order.Command.Login {
		name = "-" + name
	}
	if !order.Command.HasText {
		return []string{name}
	}
	return append([]string{name, "-c", order.Command.Text}, order.Command.Args...)
}

func environ(order *session.Spawn, shell, tty string, agent bool) []string {
	env := append(make([]string, 0, len(order.Env)+3), order.Env...)
	env = append(env, "SHELL="+shell)
	bySSH := slices.ContainsFunc(order.Env, func(kv string) bool { return strings.HasPrefix(kv, "SSH_CONNECTION=") })
	if tty != "" && bySSH {
		env = append(env, "SSH_TTY="+tty)
	}
	if agent {
		env = append(env, "SSH_AUTH_SOCK="+agentPath)
	}
	return env
}

// open makes the ends of a session.
func open(order *session.Spawn) (*ends, error) {
	control, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	e := &ends{inside: [3]int{-1, -1, -1}, control: control[0], outward: []int{control[1]}}
	if order.Streams.Tty {
		err = e.openTerminal(order)
	} else {
		err = e.openPipes(order)
	}
	if err != nil {
		e.closeInside()
		e.closeOutward()
		return nil, err
	}
	return e, nil
}

// openTerminal makes a terminal of the container's own devpts. The slave is
// opened from the master (TIOCGPTPEER, Linux 4.13), never by its name.
func (e *ends) openTerminal(order *session.Spawn) error {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	e.outward = append(e.outward, master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("ioctl TIOCSPTLCK", err)
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return os.NewSyscallError("ioctl TIOCGPTPEER", errno)
	}
	slave := int(peer)
	e.inside[0] = slave
	setTerminal(slave, order.Terminal)
	if err := unix.Fchown(slave, int(order.UID), ttyGroup); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	e.tty = ttyName(master)
	if e.inside[1], err = unix.FcntlInt(uintptr(slave), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if order.Streams.SplitStderr {
		return e.openPipe(2, order)
	}
	if e.inside[2], err = unix.FcntlInt(uintptr(slave), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return nil
}

// ttyGroup is the group that owns terminals, as devpts is mounted: 5 in
// every distribution since the FHS of 2004; mesg(1) works by it.
const ttyGroup = 5

// setTerminal gives the terminal its size and modes before anything runs in
// it, so that the first prompt is right.
func setTerminal(slave int, t session.Terminal) {
	_ = unix.IoctlSetWinsize(slave, unix.TIOCSWINSZ, &unix.Winsize{
		Row: t.Size.Rows, Col: t.Size.Cols, Xpixel: t.Size.XPixel, Ypixel: t.Size.YPixel,
	})
	modes, err := unix.IoctlGetTermios(slave, unix.TCGETS)
	if err != nil || !t.HasModes {
		return
	}
	modes.Iflag, modes.Oflag, modes.Lflag = t.Modes.Iflag, t.Modes.Oflag, t.Modes.Lflag
	// Of the control modes the speed stays: a terminal of speed 0 is hung up.
	modes.Cflag = modes.Cflag&unix.CBAUD | t.Modes.Cflag&^unix.CBAUD
	modes.Cc = t.Modes.Cc
	_ = unix.IoctlSetTermios(slave, unix.TCSETS, modes)
}

// openPipes makes three pipes, so that each stream can end by itself.
func (e *ends) openPipes(order *session.Spawn) error {
	for i := range e.inside {
		if err := e.openPipe(i, order); err != nil {
			return err
		}
	}
	return nil
}

// openPipe makes the pipe for the session's descriptor i. It belongs to the
// user, or opening /dev/stdout anew would be refused (pipe(7), proc(5)).
func (e *ends) openPipe(i int, order *session.Spawn) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	inside, outside := p[1], p[0]
	if i == 0 {
		inside, outside = p[0], p[1]
	}
	e.inside[i], e.outward = inside, append(e.outward, outside)
	if err := unix.Fchown(inside, int(order.UID), int(order.GID)); err != nil {
		return os.NewSyscallError("fchown", err)
	}
	return nil
}

func (e *ends) closeInside() {
	for _, fd := range e.inside {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func (e *ends) closeOutward() {
	_ = unix.Close(e.control)
	for _, fd := range e.outward {
		_ = unix.Close(fd)
	}
}

func ttyName(master int) string {
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		return ""
	}
	return "/dev/pts/" + strconv.FormatUint(uint64(n), 10)
}
