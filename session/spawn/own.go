package spawn

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// own passes on what programs in the container ask about it (session.OwnSocket)
// to carreld, by the connection on which carreld hears of ends, and gives them
// the answer. Init reads nothing out of either: what a command means, and
// whether the user may give it, is carreld's to say.
type own struct {
	fd int // listener

	mu     sync.Mutex
	serial uint32
	asking map[uint32]*asking
}

// asking is a connection of one that asks.
type asking struct {
	conn     int
	heard    bool        // it has asked, and waits for the answer
	deadline *time.Timer // of the question, then of the answer
}

const (
	// maxAsking is how many may wait at a time. One more is sent away.
	maxAsking = 4
	// askTime bounds the question, answerTime the answer: a reset stops the
	// container.
	askTime    = 2 * time.Second
	answerTime = 30 * time.Second
)

// serveOwn listens. Without it users go by their login.
func (s *Server) serveOwn() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: session.OwnSocket})
	if err == nil {
		err = unix.Chmod(session.OwnSocket, 0o666)
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		_ = unix.Close(fd)
		return &os.PathError{Op: "listen", Path: session.OwnSocket, Err: err}
	}
	s.own.fd, s.own.asking = fd, make(map[uint32]*asking)
	return s.controls.whenReady(fd, s.acceptOwn)
}

// acceptOwn takes one that asks, on the thread of controls, which must not
// wait for it; nor may a goroutine, which would take up a thread.
func (s *Server) acceptOwn() {
	conn, _, err := unix.Accept4(s.own.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	if len(s.own.asking) >= maxAsking {
		tellOwn(conn, uint8(session.Busy.Status()), "carrel: others ask already; please try again\n")
		return
	}
	s.own.serial++
	serial := s.own.serial
	s.own.asking[serial] = &asking{conn: conn, deadline: s.turns.after(askTime, func() { s.dropOwn(serial) })}
	if err := s.controls.whenReady(conn, func() { s.ask(serial) }); err != nil {
		s.dropOwnLocked(serial)
	}
}

// ask passes a question on.
func (s *Server) ask(serial uint32) {
	text := s.question(serial)
	if text == "" {
		return
	}
	if !s.watch.send(session.Ask{Serial: serial, Text: text}.Encode()) {
		s.answerOwn(session.Answer{Serial: serial, Status: uint8(session.NoDaemon.Status()), Text: "carrel: " + session.NoDaemon.Sentence("") + "\n"})
	}
}

// question reads it, "" if there is none. From now on the answer counts.
func (s *Server) question(serial uint32) string {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	a := s.own.asking[serial]
	if a == nil || a.heard {
		return "" // given up meanwhile
	}
	buf := make([]byte, session.MaxOwn)
	n, err := unix.Read(a.conn, buf)
	switch {
	case err == unix.EAGAIN, err == unix.EINTR:
		return ""
	case err != nil || n == 0:
		s.dropOwnLocked(serial)
		return ""
	}
	a.heard = true
	a.deadline.Stop()
	a.deadline = s.turns.after(answerTime, func() {
		s.answerOwn(session.Answer{Serial: serial, Status: uint8(session.NoAnswer.Status()), Text: "carrel: " + session.NoAnswer.Sentence("") + "\n"})
	})
	s.controls.ignore(a.conn)
	return string(buf[:n])
}

// dropOwn hangs up on one that has asked nothing.
func (s *Server) dropOwn(serial uint32) {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	s.dropOwnLocked(serial)
}

func (s *Server) dropOwnLocked(serial uint32) {
	a := s.own.asking[serial]
	if a == nil || a.heard {
		return
	}
	a.deadline.Stop()
	delete(s.own.asking, serial)
	s.controls.forget(a.conn)
}

// answerOwn gives one that asked its answer, unless it has it.
func (s *Server) answerOwn(a session.Answer) {
	s.own.mu.Lock()
	defer s.own.mu.Unlock()
	one := s.own.asking[a.Serial]
	if one == nil || !one.heard {
		return
	}
	one.deadline.Stop()
	delete(s.own.asking, a.Serial)
	tellOwn(one.conn, a.Status, a.Text)
}

// tellOwn writes an answer, which fits into the socket, and hangs up.
func tellOwn(conn int, status uint8, text string) {
	_ = unix.Sendmsg(conn, append([]byte{status}, text...), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	_ = unix.Close(conn)
}

// send sends a frame to carreld, false if nobody listens.
func (w *watch) send(frame []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fd >= 0 && w.sendLocked(frame) == nil
}
