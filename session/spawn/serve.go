package spawn

import (
	"os"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// Deadlines.
const (
	requestTime = 5 * time.Second // one request of carreld's
	// forkTime bounds fork and exec. A user's process may stop the child
	// between its change of ids and its exec, which would leave the forking
	// thread waiting for ever.
	forkTime = 3 * time.Second
	// hangupTime is between SIGHUP and SIGKILL when the client has vanished.
	hangupTime = 5 * time.Second
)

// A Leaf is the cgroup of one session; sandbox/cgroup/leaf has the real one.
type Leaf interface {
	// Enter moves the calling thread into the leaf, so that what it forks is
	// born there; only where FD is -1.
	Enter() error
	// FD is the directory for CLONE_INTO_CGROUP, -1 on cgroup v1.
	FD() int
	Pids() ([]int, error)
	Kill() error // everything in it
	// Remove fails while a process is in the leaf; Close gives up its
	// descriptors.
	Remove() error
	Close()
}

// A Server runs the sessions of one container.
//
// One thread accepts, reads, forks and replies: nothing is handed from thread
// to thread while a login waits, and on cgroup v1 the thread that forks is the
// one that sits in the session's leaf. A second thread waits for children, a
// third for the clients' control sockets. All three sleep in the kernel when
// nothing happens. What else there is to do is done in turns, on a fourth.
type Server struct {
	listener int
	newLeaf  func(name string) (Leaf, error) // nil for none
	rest     Leaf                            // where the forking thread is between sessions; nil on v2
	reaper   *reaper
	controls *controls

	agent agent
	watch watch
	own   own
	turns turns

	program    func() [][2]uintptr // where the program is in memory
	collecting sync.Mutex          // a collection that is asked for, or a fork, which must not meet one

	mu       sync.Mutex
	live     map[int]*live // by pid of the first process
	lingers  []Leaf        // leaves of ended sessions that still hold processes
	trimming *time.Timer
	sweeping bool // a sweep is due
}

// New returns a server for the inherited SOCK_SEQPACKET listener, which it
// owns from now on. newLeaf makes the cgroup of a session; nil is for none.
func New(listener int, newLeaf func(name string) (Leaf, error)) (*Server, error) {
	s := &Server{listener: listener, newLeaf: newLeaf, reaper: newReaper(), live: make(map[int]*live),
		program: sync.OnceValue(programRanges)}
	var err error
	if s.controls, err = newControls(s.killUnborn); err != nil {
		return nil, err
	}
	s.agent.controls = s.controls
	s.watch.turns, s.watch.fd = &s.turns, -1
	if err := s.serveOwn(); err != nil {
		_, _ = os.Stderr.WriteString("carrel-init: " + err.Error() + "\n")
	}
	if err := s.makeRest(); err != nil {
		return nil, err
	}
	return s, unix.SetNonblock(listener, false)
}

// makeRest makes the leaf in which the forking thread rests, so that those of
// sessions can be removed. cgroup v2 clones into a leaf and moves no thread.
func (s *Server) makeRest() error {
	if s.newLeaf == nil {
		return nil
	}
	rest, err := s.newLeaf("forker")
	if err != nil {
		return err
	}
	if rest.FD() < 0 {
		s.rest = rest
		return nil
	}
	rest.Close()
	return rest.Remove()
}

// Reap collects children for ever; it keeps a thread of its own busy.
func (s *Server) Reap() { s.reaper.run(s.sweepSoon) }

// Serve accepts requests until the listener fails, which ends the container.
func (s *Server) Serve() error {
	runtime.LockOSThread() // for ever; the process's umask is this thread's to change, too
	reserve(spare)
	go s.controls.run()
	for {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			s.answer(fd)
			_ = unix.Close(fd)
			if s.rest != nil {
				_ = s.rest.Enter()
				s.sweep() // the session may have ended while we were in its leaf
			}
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			time.Sleep(10 * time.Millisecond)
		default:
			return os.NewSyscallError("accept4", err)
		}
	}
}

// answer serves one connection: one frame in, one out. Only carreld can reach
// the socket, and it sends at once.
func (s *Server) answer(fd int) {
	limit := unix.NsecToTimeval(int64(requestTime))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	frame, err := readFrame(fd)
	if err != nil {
		return
	}
	a := asked{fd: fd, version: session.VersionOf(frame)}
	switch session.KindOf(frame) {
	case session.KindPing:
		s.mu.Lock()
		n := len(s.live)
		s.mu.Unlock()
		a.answer(session.Pong{Sessions: uint32(n)}.Encode(), nil)
	case session.KindSpawn:
		order, err := session.DecodeSpawn(frame)
		if err != nil {
			a.answer((&session.Reply{Failure: session.Protocol}).Encode(), nil)
			return
		}
		s.serve(a, order)
	default:
		s.answerRest(a, frame)
	}
}

// asked is a connection on which carreld has asked something.
type asked struct {
	fd      int
	version uint8 // of the protocol
}

func (a asked) answer(frame []byte, fds []int) { _ = send(a.fd, session.In(a.version, frame), fds) }

// serve starts a session and hands its descriptors out.
func (s *Server) serve(a asked, order *session.Spawn) {
	l, outward, reply := s.start(order, a.version)
	if l == nil {
		a.answer(reply.Encode(), nil)
		return
	}
	// If the reply does not get out, the other end of the control socket is
	// closed below, and the session ends as when a client vanishes.
	a.answer(reply.Encode(), outward)
	for _, fd := range outward {
		_ = unix.Close(fd)
	}
	s.add(l)
}

// readFrame reads one packet, whatever its size within the bound.
func readFrame(fd int) ([]byte, error) {
	for {
		// The packet's length first, so that a small one costs little.
		n, _, err := unix.Recvfrom(fd, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n > session.MaxFrame {
			return nil, session.ErrFrame
		}
		frame := make([]byte, n)
		_, _, err = unix.Recvfrom(fd, frame, unix.MSG_DONTWAIT)
		return frame, err
	}
}

// send sends a frame and descriptors.
func send(fd int, frame []byte, fds []int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(fd, frame, rights, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

func leafName(id session.ID) string { return "s" + strconv.FormatUint(uint64(id), 10) }
