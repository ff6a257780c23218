package spawn

import (
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// Deadlines of one request.
const (
	requestTime = 5 * time.Second
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
	// Remove fails while a process is in the leaf; Close gives up its
	// descriptors.
	Remove() error
	Close()
}

// A Server runs the sessions of one container.
type Server struct {
	listener int
	newLeaf  func(name string) (Leaf, error) // nil for none

	reaper  *reaper
	forking sync.Mutex // serialises forks; guards the process's umask

	mu       sync.Mutex
	live     map[int]*live // by pid of the first process
	lingers  []Leaf        // leaves of ended sessions that still hold processes
	trimming *time.Timer
}

// New returns a server for the inherited SOCK_SEQPACKET listener, which it
// owns from now on. newLeaf makes the cgroup of a session; nil is for none.
func New(listener int, newLeaf func(name string) (Leaf, error)) *Server {
	return &Server{listener: listener, newLeaf: newLeaf, reaper: newReaper(), live: make(map[int]*live)}
}

// Serve accepts requests until the listener fails, which ends the container.
func (s *Server) Serve() error {
	for {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch err {
		case nil:
			go s.answer(fd)
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			time.Sleep(10 * time.Millisecond)
		default:
			return os.NewSyscallError("accept4", err)
		}
	}
}

// Reap collects children for ever; it keeps a thread of its own busy.
func (s *Server) Reap() { s.reaper.run() }

// answer serves one connection: one frame in, one out.
func (s *Server) answer(fd int) {
	conn := os.NewFile(uintptr(fd), "request")
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(requestTime))
	frame, err := readFrame(conn)
	if err != nil {
		return
	}
	switch session.KindOf(frame) {
	case session.KindPing:
		s.mu.Lock()
		n := len(s.live)
		s.mu.Unlock()
		_, _ = conn.Write(session.Pong{Sessions: uint32(n)}.Encode())
	case session.KindSpawn:
		spawn, err := session.DecodeSpawn(frame)
		if err != nil {
			_, _ = conn.Write((&session.Reply{Failure: session.Protocol}).Encode())
			return
		}
		s.serve(conn, spawn)
	}
}

// serve starts a session and hands its descriptors out.
func (s *Server) serve(conn *os.File, spawn *session.Spawn) {
	l, reply := s.start(spawn)
	if l == nil {
		_, _ = conn.Write(reply.Encode())
		return
	}
	// If the reply does not get out, the other end of the control socket is
	// closed below, and the session ends as when a client vanishes.
	_ = sendWith(conn, reply.Encode(), l.outward)
	for _, fd := range l.outward {
		_ = unix.Close(fd)
	}
	l.listen()
}

// readFrame reads one packet, whatever its size within the bound.
func readFrame(f *os.File) ([]byte, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var frame []byte
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		// The packet's length first, so that a small one costs little.
		n, _, err := unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		if err == unix.EAGAIN {
			return false
		}
		if err == nil && n > session.MaxFrame {
			err = session.ErrFrame
		}
		if err == nil {
			frame = make([]byte, n)
			_, _, err = unix.Recvfrom(int(fd), frame, 0)
		}
		failure = err
		return true
	})
	if err == nil {
		err = failure
	}
	return frame, err
}

// sendWith sends a frame and descriptors.
func sendWith(f *os.File, frame []byte, fds []int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		failure = unix.Sendmsg(int(fd), frame, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return failure != unix.EAGAIN
	})
	if err == nil {
		err = failure
	}
	return err
}

func leafName(id session.ID) string { return "s" + strconv.FormatUint(uint64(id), 10) }
