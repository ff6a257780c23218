package attach

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// Deadlines of asking.
const (
	// dialTime bounds the wait for a place in the daemon's listen queue.
	dialTime = 10 * time.Second
	// restartTime bounds the wait for a daemon that is being restarted.
	restartTime = time.Second
	// replyTime bounds the wait for the reply; carreld's own deadline for a
	// cold start is shorter.
	replyTime = 60 * time.Second
)

// ask asks for the session and waits for the reply. If a head start has done
// the asking, only the reply is left; a daemon that does not know it, or speaks
// an older version, is asked once more.
func ask(socket string, conn int, req *session.Request) (*answer, session.Failure) {
	version := uint8(session.Version)
	if conn >= 0 {
		a, failure := receive(conn, req.Streams)
		if failure != session.None || a != nil && a.reply.Failure != session.Protocol {
			_ = unix.Close(conn)
			return a, failure
		}
		if a != nil {
			version = a.version
			_ = unix.Close(conn)
			conn = -1
		}
	}
	a, failure := request(socket, conn, req, version)
	if failure == session.None && a.reply.Failure == session.Protocol && a.version < version {
		a, failure = request(socket, -1, req, a.version)
	}
	return a, failure
}

// request asks once, over conn unless that is -1, and closes it.
func request(socket string, conn int, req *session.Request, version uint8) (*answer, session.Failure) {
	frame, err := req.Encode()
	if err != nil {
		return nil, session.TooLong
	}
	if conn < 0 {
		var failure session.Failure
		if conn, failure = dial(socket); failure != session.None {
			return nil, failure
		}
	}
	defer unix.Close(conn)
	if err := send(conn, session.In(version, frame)); err != nil {
		return nil, session.NoAnswer
	}
	a, failure := receive(conn, req.Streams)
	if a == nil && failure == session.None {
		failure = session.Protocol
	}
	return a, failure
}

// An answer is the daemon's.
type answer struct {
	reply   *session.Reply
	fds     []int // as many as the streams call for, if reply has no Failure
	version uint8 // that the session speaks
}

// dial connects to the daemon. A full queue refuses a non-blocking connect
// with EAGAIN (unix(7)); then it is tried again after a pause that differs
// from one caller to the next, so that a thousand of them do not come in step.
func dial(path string) (int, session.Failure) {
	start := time.Now()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return -1, session.Internal
		}
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err == nil {
			return fd, session.None
		}
		_ = unix.Close(fd)
		waited := time.Since(start)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && waited < dialTime:
		case err == unix.ECONNREFUSED && waited < restartTime:
		case err == unix.EAGAIN:
			return -1, session.NoAnswer
		default:
			return -1, session.NoDaemon
		}
		time.Sleep(pause/2 + jitter(pause))
	}
}

// jitter returns a pause below limit that differs between processes.
func jitter(limit time.Duration) time.Duration {
	n := uint64(time.Now().UnixNano()) ^ uint64(unix.Getpid())<<32
	n ^= n >> 33
	n *= 0xff51afd7ed558ccd // the mixer of MurmurHash3
	n ^= n >> 33
	return time.Duration(n % uint64(limit))
}

// send writes one frame. It is no error if nobody reads it: a daemon that has
// too many logins of the user replies at once and leaves, and receive has it.
func send(fd int, frame []byte) error {
	for {
		_, err := unix.Write(fd, frame)
		switch err {
		case unix.EINTR:
		case unix.EPIPE, unix.ECONNRESET:
			return nil
		case unix.EAGAIN:
			if !pollUntil(fd, unix.POLLOUT, time.Now().Add(dialTime)) {
				return err
			}
		default:
			return err
		}
	}
}

// receive waits for the reply and its descriptors, as many as streams call
// for; any other number is a fault of the sender, and all are closed. No reply
// and no failure is session.Late.
func receive(fd int, streams session.Streams) (*answer, session.Failure) {
	deadline := time.Now().Add(replyTime)
	buf := make([]byte, 1024)
	if streams.Tty {
		buf = make([]byte, 1024+session.MaxNotice)
	}
	// Room for more descriptors than can be right, so that none is lost.
	oob := make([]byte, unix.CmsgSpace(8*4))
	reset := false
	for {
		if !pollUntil(fd, unix.POLLIN, deadline) {
			return nil, session.NoAnswer
		}
		n, oobn, flags, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.ECONNRESET) && !reset:
			// A daemon that refused without reading the request. The error is
			// told once, ahead of the reply.
			reset = true
			continue
		}
		if err != nil || n == 0 {
			return nil, session.NoAnswer
		}
		fds := rights(oob[:oobn])
		if len(fds) == 0 && session.KindOf(buf[:n]) == session.KindLate {
			return nil, session.None
		}
		reply, err := session.DecodeReply(buf[:n])
		if err == nil && (reply.Failure != session.None || len(fds) == streams.Descriptors()) {
			return &answer{reply: reply, fds: fds, version: session.VersionOf(buf)}, session.None
		}
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		if flags&unix.MSG_CTRUNC != 0 && len(fds) < streams.Descriptors() {
			return nil, session.Internal // no room for them: RLIMIT_NOFILE
		}
		return nil, session.Protocol
	}
}

// rights returns the descriptors of a control message.
func rights(oob []byte) []int {
	if len(oob) == 0 {
		return nil
	}
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

// pollUntil waits for events; false is the deadline.
func pollUntil(fd int, events int16, deadline time.Time) bool {
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, int(left/time.Millisecond)+1)
		if n > 0 {
			return true
		}
		if err != nil && err != unix.EINTR {
			return false
		}
	}
}
