package spawn

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// live is a session whose first process runs.
type live struct {
	server *Server
	id     session.ID
	uid    uint32
	pid    int // of the first process; also its session and process group
	leaf   Leaf
	tty    bool
	agent  bool // it has the agent socket
	// terminal is the path of its terminal, "" without one.
	terminal string
	started  time.Time
	// killRest ends whatever is in the leaf when the first process has ended.
	killRest bool
	control  *control

	hungUp atomic.Bool // the client passed on a SIGHUP
	hunt   sync.Once   // vanished is under way
	users  int         // of leaf: the first process, and whoever signals in it; guarded by server.mu
}

// use runs f, which may use the leaf, unless the leaf has been given up. What f
// does in the kernel it does in its turn.
func (l *live) use(f func()) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if l.users == 0 {
		return
	}
	l.users++
	go func() {
		f()
		l.server.turns.take(l.release)
	}()
}

// release ends a use of the leaf. The last one gives it up.
func (l *live) release() {
	l.server.mu.Lock()
	l.users--
	last := l.users == 0
	l.server.mu.Unlock()
	if last && l.leaf != nil {
		l.server.discard(l.leaf)
	}
}

// add takes a started session into the books.
func (s *Server) add(l *live) {
	l.started = time.Now()
	s.mu.Lock()
	s.live[l.pid] = l
	l.users = 1
	s.mu.Unlock()
	if err := s.controls.add(l.control); err != nil {
		// It cannot be signalled, and the end of its client goes unnoticed.
		_, _ = os.Stderr.WriteString("carrel-init: " + err.Error() + "\n")
	}
	s.reaper.watch(l.pid, func(status unix.WaitStatus) { s.ended(l, status) })
}

// hear obeys the client.
func (l *live) hear(packet []byte) {
	if packet == nil {
		if l.agent {
			l.server.agent.drop(l.control)
		}
		l.hunt.Do(func() { l.use(l.vanished) })
		return
	}
	if sig, err := session.DecodeSignal(packet); err == nil {
		l.signal(unix.Signal(sig.Number))
	}
}

// ended tells the client how the session's first process ended.
func (s *Server) ended(l *live, status unix.WaitStatus) {
	exit := session.Exit{Status: uint8(status.ExitStatus())}
	if status.Signaled() {
		exit = session.Exit{Signal: uint8(status.Signal())}
	}
	s.controls.finish(l.control, exit.Encode())
	if l.agent {
		s.agent.release(l.control)
	}
	switch {
	case l.killRest:
		l.use(l.killAll)
	case l.hungUp.Load(): // what did not obey the hang-up has lost its client, too
		l.hunt.Do(func() { l.use(l.vanished) })
	}
	s.mu.Lock()
	delete(s.live, l.pid)
	idle := len(s.live) == 0
	s.mu.Unlock()
	s.watch.ended(session.End{ID: l.id, Exit: exit, At: uint64(time.Now().UnixMilli())})
	l.release()
	if idle {
		s.trim()
	}
}

// discard removes the leaf of an ended session as soon as it is empty.
func (s *Server) discard(leaf Leaf) {
	s.mu.Lock()
	s.lingers = append(s.lingers, leaf)
	s.mu.Unlock()
	s.sweep()
}

// sweep removes the leaves of ended sessions that have become empty. A leaf
// stays while a background process of its session lives.
func (s *Server) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := s.lingers[:0]
	for _, leaf := range s.lingers {
		if leaf.Remove() != nil {
			kept = append(kept, leaf)
		} else {
			leaf.Close()
		}
	}
	clear(s.lingers[len(kept):])
	s.lingers = kept
}

// sweepSoon sweeps a moment after an orphan has ended, once for many: it may
// have been the last process of its session's leaf.
func (s *Server) sweepSoon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sweeping || len(s.lingers) == 0 {
		return
	}
	s.sweeping = true
	s.turns.after(sweepTime, func() {
		s.mu.Lock()
		s.sweeping = false
		s.mu.Unlock()
		s.sweep()
	})
}

// How long after an end the books are tidied.
const (
	trimTime  = 500 * time.Millisecond
	sweepTime = 50 * time.Millisecond
)

// signal sends sig to the terminal's foreground process group, or to the
// group of the first process where there is no terminal. A hang-up is for the
// session's leader, too (credentials(7)).
func (l *live) signal(sig unix.Signal) {
	group := l.pid
	if l.tty {
		if st, err := readStat(l.pid); err == nil && st.foreground > 0 {
			group = st.foreground
		}
	}
	_ = unix.Kill(-group, sig)
	if sig == unix.SIGHUP {
		l.hungUp.Store(true)
		if group != l.pid {
			_ = unix.Kill(l.pid, sig)
		}
	}
}

// vanished ends the session of a client that is gone: SIGHUP, as a terminal
// that is hung up sends it, time to obey, and SIGKILL for whatever is still in
// the session. A process that left it with setsid(2), as daemons and tmux do,
// stays.
func (l *live) vanished() {
	l.signalMembers(unix.SIGHUP)
	l.signalMembers(unix.SIGCONT)
	deadline := time.Now().Add(hangupTime)
	for pause := 5 * time.Millisecond; l.signalMembers(0) > 0; pause = min(2*pause, time.Second) {
		time.Sleep(pause)
		if time.Now().After(deadline) {
			l.signalMembers(unix.SIGKILL)
		}
		if time.Now().After(deadline.Add(hangupTime)) {
			break // stuck in the kernel; the leaf keeps them in sight
		}
	}
	l.server.turns.take(l.server.sweep)
}

// signalMembers returns how many there were; the signal 0 does nothing.
func (l *live) signalMembers(sig unix.Signal) (n int) {
	l.server.turns.take(func() {
		for _, pid := range l.members() {
			_ = unix.Kill(pid, sig)
			n++
		}
	})
	return n
}

// killAll ends everything that was started in the session.
func (l *live) killAll() {
	l.server.turns.take(func() {
		if l.leaf != nil {
			_ = l.leaf.Kill()
		} else {
			_ = unix.Kill(-l.pid, unix.SIGKILL)
		}
		l.server.sweep()
	})
}

// members returns the processes that are still in the session. The leaf says
// which to look at; without one all are.
func (l *live) members() []int {
	pids, err := everyPid()
	if l.leaf != nil {
		pids, err = l.leaf.Pids()
	}
	if err != nil {
		return nil
	}
	var in []int
	for _, pid := range pids {
		if st, err := readStat(pid); err == nil && st.session == l.pid && pid != 1 {
			in = append(in, pid)
		}
	}
	return in
}
