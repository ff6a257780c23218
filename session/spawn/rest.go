package spawn

import (
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// answerRest answers what is no login: which sessions live, a line for the
// terminals, and whoever wants to hear of ends.
func (s *Server) answerRest(a asked, frame []byte) {
	switch session.KindOf(frame) {
	case session.KindSessions:
		a.answer(s.listing().Encode(), nil)
	case session.KindTell:
		if tell, err := session.DecodeTell(frame); err == nil {
			a.answer(session.Told{Terminals: s.tell(tell.Text)}.Encode(), nil)
		}
	case session.KindAnswer:
		if answer, err := session.DecodeAnswer(frame); err == nil {
			s.answerOwn(answer)
		}
	case session.KindWatch:
		s.watch.take(a)
	default:
		a.answer((&session.Reply{Failure: session.Protocol}).Encode(), nil)
	}
}

// listing names the live sessions, oldest first.
func (s *Server) listing() *session.Listing {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &session.Listing{}
	for _, one := range s.live {
		l.Sessions = append(l.Sessions, session.Live{
			ID: one.id, PID: uint32(one.pid), Started: uint64(one.started.UnixMilli()), Terminal: one.terminal,
		})
	}
	slices.SortFunc(l.Sessions, func(a, b session.Live) int { return int(int64(a.Started) - int64(b.Started)) })
	return l
}

// tell writes a line to the terminals of the live sessions and returns how
// many took it. It never waits: a terminal that is stopped (Ctrl-S) or full
// goes without.
func (s *Server) tell(text string) (told uint32) {
	line := []byte("\r\ncarrel: " + text + "\r\n")
	type place struct {
		terminal string
		uid      uint32
	}
	var places []place
	s.mu.Lock()
	for _, l := range s.live {
		if l.terminal != "" {
			places = append(places, place{l.terminal, l.uid})
		}
	}
	s.mu.Unlock()
	for _, p := range places {
		if err := writeAs(p.uid, p.terminal, line); err == nil {
			told++
		}
	}
	return told
}

// writeAs writes to a user's terminal, whose mode may be 0600 (mesg(1)) and
// which root of the container may then not open: it has no
// CAP_DAC_OVERRIDE. The thread borrows the user's file system uid, which gives
// the user no hold on it: who may signal a thread goes by its real and saved
// uid (kill(2)), who may trace it by these and the effective one (ptrace(2)).
// The caller's thread is the one that forks, so it must be itself again.
func writeAs(uid uint32, path string, line []byte) error {
	if _, err := unix.SetfsuidRetUid(int(uid)); err != nil {
		return err
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	_, _ = unix.SetfsuidRetUid(0)
	if now, _ := unix.SetfsuidRetUid(-1); now != 0 { // setfsuid(2) has no other way to tell
		panic("BUG: still with the file system uid of a user")
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, line)
	return err
}

// watchTime is between the end of a session and word of it to carreld: a
// login is over by then, and many ends go out as one frame.
const watchTime = 100 * time.Millisecond

// A watch is carreld's ear for the ends of sessions. What nobody hears is
// kept, to a bound, for the next carreld.
type watch struct {
	turns *turns

	mu      sync.Mutex
	fd      int   // connection, -1 if nobody listens
	version uint8 // of the protocol
	ends    []session.End
	due     bool // a flush is
}

// take makes the connection the one that is told.
func (w *watch) take(a asked) {
	fd, err := unix.FcntlInt(uintptr(a.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		_ = unix.Close(w.fd)
	}
	w.fd, w.version = fd, a.version
	w.flushLocked()
}

// ended notes the end of a session.
func (w *watch) ended(end session.End) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.ends) == session.MaxEnds {
		w.ends = w.ends[:copy(w.ends, w.ends[1:])]
	}
	w.ends = append(w.ends, end)
	if w.fd < 0 || w.due {
		return
	}
	w.due = true
	w.turns.after(watchTime, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.due = false
		w.flushLocked()
	})
}

// flushLocked tells what is known. A listener that does not listen is given up.
func (w *watch) flushLocked() {
	if w.fd < 0 || len(w.ends) == 0 {
		return
	}
	if err := w.sendLocked((&session.Ended{Ends: w.ends}).Encode()); err != nil {
		_ = unix.Close(w.fd)
		w.fd = -1
		return
	}
	w.ends = nil
}

// sendLocked sends a frame to whoever listens, without waiting.
func (w *watch) sendLocked(frame []byte) error {
	return unix.Sendmsg(w.fd, session.In(w.version, frame), nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
}
