package broker

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/accounts"
	"github.com/carrel-sh/carrel/config"
	"github.com/carrel-sh/carrel/policy"
	"github.com/carrel-sh/carrel/session"
)

// An OwnCommand is what a user wants to know of, or done to, their own
// container. Whose it is, is the kernel's word, as for any login.
type OwnCommand struct {
	Name config.SelfCommand
	Yes  bool // they know that it cannot be undone
}

// ownCommands are the texts, whole and byte for byte: a command is never taken
// apart, and one that is not exactly one of these is the shell's.
var ownCommands = map[string]OwnCommand{
	"carrel status":      {Name: config.SelfStatus},
	"carrel sessions":    {Name: config.SelfSessions},
	"carrel reset":       {Name: config.SelfReset},
	"carrel reset --yes": {Name: config.SelfReset, Yes: true},
}

// ownCommand returns the command that the request is, if policy has carreld
// answer it. It needs no container, so it works when the user has broken
// theirs, which is what reset is for.
func ownCommand(r *session.Request, d policy.Decision) (OwnCommand, bool) {
	if !r.Command.HasText || len(r.Command.Args) > 0 {
		return OwnCommand{}, false
	}
	c, ok := ownCommands[r.Command.Text]
	return c, ok && slices.Contains(d.SelfService, c.Name)
}

// Ask answers a command that comes from inside the container of uid, as for a
// login of that user.
func (b *Broker) Ask(ctx context.Context, uid uint32, command string) (text string, status int) {
	c, ok := ownCommands[command]
	if !ok || b.Own == nil {
		return "usage: carrel status|sessions|reset [--yes]\n", session.Usage.Status()
	}
	account, err := b.Accounts.Lookup(ctx, uid)
	if err != nil {
		b.Logger.Error("own command", "uid", uid, "err", err)
		return "carrel: " + session.UnknownAccount.Sentence("") + "\n", session.UnknownAccount.Status()
	}
	decision, err := b.Policy().Decide(policyRequest(account))
	if err != nil || !slices.Contains(decision.SelfService, c.Name) {
		return "carrel: your administrator does not allow this\n", session.Refused.Status()
	}
	b.Logger.Info("own command", "user", account.Name, "command", string(c.Name), "yes", c.Yes)
	return b.Own(ctx, account, c)
}

// maxOwnText bounds an answer: a pipe and a terminal take that much without a
// reader.
const maxOwnText = 3 << 10

// serveOwn answers as a session would that prints the text and exits.
func (b *Broker) serveOwn(ctx context.Context, conn *caller, account accounts.Account, c OwnCommand, s session.Streams) *failure {
	text, status := b.Own(ctx, account, c)
	if len(text) > maxOwnText {
		text = text[:strings.LastIndexByte(text[:maxOwnText], '\n')+1] + "...\n"
	}
	outward, err := printed(text, session.In(conn.version, session.Exit{Status: uint8(status)}.Encode()), s)
	defer closeAll(outward)
	if err != nil {
		return fail(session.Internal, "", err)
	}
	b.Logger.Info("own command", "user", account.Name, "command", string(c.Name), "yes", c.Yes, "status", status)
	if err := conn.answer(&session.Reply{}, outward); err != nil {
		b.Logger.Info("login given up", "user", account.Name, "err", err)
	}
	return nil
}

// printed makes the descriptors of a session that has ended: what it printed
// waits in its pipe or terminal, and its status in the control socket.
func printed(text string, exit []byte, s session.Streams) (outward []int, err error) {
	control, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(control[0])
	outward = []int{control[1]}
	if s.Tty {
		master, err := printedTerminal(text)
		if err != nil {
			return outward, err
		}
		outward = append(outward, master)
	}
	for len(outward) < s.Descriptors() {
		first := len(outward) == 1 // stdin: the caller has the end to write to
		stdout := len(outward) == 2 && !s.Tty
		pipe, err := printedPipe(first, stdout, text)
		if err != nil {
			return outward, err
		}
		outward = append(outward, pipe)
	}
	_, err = unix.Write(control[0], exit)
	return outward, os.NewSyscallError("write", err)
}

// printedPipe makes a pipe and returns the caller's end. The other one is
// closed, with the text in it if it is stdout's.
func printedPipe(stdin, stdout bool, text string) (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return -1, os.NewSyscallError("pipe2", err)
	}
	if stdin {
		_ = unix.Close(p[0])
		return p[1], nil
	}
	defer unix.Close(p[1])
	if stdout {
		if _, err := unix.Write(p[1], []byte(text)); err != nil {
			_ = unix.Close(p[0])
			return -1, os.NewSyscallError("write", err)
		}
	}
	return p[0], nil
}

// printedTerminal makes a terminal of the host that nobody runs on, prints the
// text there and hangs up: the caller reads the text and then the end.
func printedTerminal(text string) (int, error) {
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	if err := printOn(master, text); err != nil {
		_ = unix.Close(master)
		return -1, fmt.Errorf("terminal for an answer: %w", err)
	}
	return master, nil
}

// printOn prints on the other side of a terminal, which nobody else opens
// (TIOCGPTPEER, ioctl_tty(2)).
func printOn(master int, text string) error {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("ioctl TIOCSPTLCK", err)
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errno != 0 {
		return os.NewSyscallError("ioctl TIOCGPTPEER", errno)
	}
	defer unix.Close(int(slave))
	_, err := unix.Write(int(slave), []byte(text)) // "\n" becomes "\r\n" (termios(3), ONLCR)
	return os.NewSyscallError("write", err)
}
