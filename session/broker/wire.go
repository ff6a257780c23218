package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// noUID is what the kernel says of a caller that it does not know or cannot
// express here: (uid_t)-1, and the overflow id of user namespaces.
const (
	noUID       = 1<<32 - 1
	overflowUID = 65534
)

// peer returns who called connect(2): the effective uid of then, whoever holds
// the socket now. A pid is not asked for, since pids are reused
// (CVE-2013-4288).
func peer(conn *net.UnixConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	if cred.Uid == noUID || cred.Uid == overflowUID {
		return 0, fmt.Errorf("uid %d is nobody", cred.Uid)
	}
	return cred.Uid, nil
}

// errAwake says that the caller wants no session but to say that they are
// there.
var errAwake = errors.New("the user is there")

// A caller is a carrelsh that is connected.
type caller struct {
	*net.UnixConn
	version uint8 // of the protocol, that it is answered in
}

// answer sends the reply with the descriptors, which stay the caller's own.
func (c *caller) answer(reply *session.Reply, fds []int) error {
	return sendRights(c.UnixConn, session.In(c.version, reply.Encode()), fds)
}

func sendRights(conn *net.UnixConn, frame []byte, fds []int) error {
	_, _, err := conn.WriteMsgUnix(frame, unix.UnixRights(fds...), nil)
	return err
}

// readRequest takes the caller's request. There is no place for descriptors,
// so the kernel closes what an older one lets pass.
func (c *caller) readRequest() (*session.Request, error) {
	frame, err := readFrame(c.UnixConn)
	if err != nil {
		return nil, err
	}
	c.version = session.VersionOf(frame)
	switch session.KindOf(frame) {
	case session.KindHeadStart:
	case session.KindAwake:
		return nil, errAwake
	default:
		return session.DecodeRequest(frame)
	}
	head, err := session.DecodeHeadStart(frame)
	if err != nil {
		return nil, err
	}
	if request, ok := head.Request(); ok {
		return request, nil
	}
	if _, err := c.Write(session.In(c.version, session.Late())); err != nil {
		return nil, err
	}
	if frame, err = readFrame(c.UnixConn); err != nil {
		return nil, err
	}
	return session.DecodeRequest(frame)
}

func readFrame(conn *net.UnixConn) ([]byte, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var frame []byte
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return false
		case err == nil && n == 0:
			err = errors.New("closed before the request")
		case err == nil && n > session.MaxFrame:
			err = session.ErrFrame
		case err == nil:
			frame = make([]byte, n)
			_, _, err = unix.Recvfrom(int(fd), frame, unix.MSG_DONTWAIT)
		}
		failed = err
		return true
	})
	return frame, errors.Join(err, failed)
}

// discard takes what the caller sent and nobody read: closing a socket before
// that resets the connection (unix_release_sock in net/unix/af_unix.c), and the
// caller would get ECONNRESET in the place of the reply.
func discard(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for range 8 { // a caller sends one packet
			if n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_DONTWAIT); err != nil || n == 0 {
				return
			}
		}
	})
}

// spawn asks carrel-init for a session. On a nil error the caller owns the
// descriptors, which are as many and of the kind that the streams call for.
func (b *Broker) spawn(ctx context.Context, c container, order *session.Spawn, version uint8) (*session.Reply, []int, error) {
	frame, err := order.Encode()
	if err != nil {
		return &session.Reply{Failure: session.TooLong}, nil, nil
	}
	conn, err := ask(ctx, c, session.In(version, frame))
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	buf := make([]byte, 1024)
	oob := make([]byte, unix.CmsgSpace(8*4)) // more than can be right
	n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
	fds := rights(oob[:oobn])
	if err != nil || n == 0 {
		closeAll(fds)
		return nil, nil, errors.Join(errors.New("no answer"), err)
	}
	reply, err := session.DecodeReply(buf[:n])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = session.ErrFrame
	}
	if err == nil && reply.Failure == session.None {
		err = check(order.Streams, fds)
	}
	if err != nil || reply.Failure != session.None {
		closeAll(fds)
		fds = nil
	}
	return reply, fds, err
}

// Ping asks carrel-init how many sessions it runs.
func Ping(ctx context.Context, c answerer) (session.Pong, error) {
	conn, err := ask(ctx, c, session.In(c.Protocol(), session.Ping()))
	if err != nil {
		return session.Pong{}, err
	}
	defer conn.Close()
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil {
		return session.Pong{}, err
	}
	return session.DecodePong(buf[:n])
}

// ask sends one frame to carrel-init. The connection has a deadline.
func ask(ctx context.Context, c answerer, frame []byte) (*net.UnixConn, error) {
	ctx, cancel := context.WithTimeout(ctx, spawnTime)
	defer cancel()
	var conn *net.UnixConn
	var err error
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		conn, err = c.Dial(ctx)
		// A full queue is EAGAIN at once (unix(7)), not a wait.
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write(frame); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func rights(oob []byte) []int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	var fds []int
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// check holds the descriptors of a session against what they must be: a
// socket, then a terminal's master or the ends of pipes, in the right
// direction.
func check(s session.Streams, fds []int) error {
	if len(fds) != s.Descriptors() {
		return fmt.Errorf("%d descriptors; want %d", len(fds), s.Descriptors())
	}
	if err := checkType(fds[0], unix.S_IFSOCK); err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	pipes := fds[1:]
	if s.Tty {
		if err := checkMaster(fds[1]); err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		pipes = fds[2:]
	}
	for i, fd := range pipes {
		access := unix.O_RDONLY
		if i == 0 && !s.Tty {
			access = unix.O_WRONLY
		}
		if err := checkPipe(fd, access); err != nil {
			return fmt.Errorf("pipe %d: %w", i, err)
		}
	}
	return nil
}

// checkType asks for the type without asking the file system, which could be
// one that does not answer (statx(2), AT_STATX_DONT_SYNC).
func checkType(fd int, want uint16) error {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st); err != nil {
		return err
	}
	if got := st.Mode & unix.S_IFMT; got != want {
		return fmt.Errorf("file type %#o; want %#o", got, want)
	}
	return nil
}

func checkMaster(fd int) error {
	if err := checkType(fd, unix.S_IFCHR); err != nil {
		return err
	}
	_, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN) // a master's alone
	return err
}

func checkPipe(fd, access int) error {
	if err := checkType(fd, unix.S_IFIFO); err != nil {
		return err
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_ACCMODE != access {
		err = errors.New("wrong direction")
	}
	return err
}
