package attach

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// Limits of the relay.
const (
	// block is one read of the relay: the size of a pipe (pipe(7)), past which
	// larger reads gain nothing.
	block = 64 << 10
	// grace is how long after the end of the first process nothing must come
	// before the relay stops while somebody still holds the other end.
	grace = 200 * time.Millisecond
	// drainBytes and drainTime together bound the relay after the end of the
	// first process, so that a background process that writes for ever cannot
	// keep the session. The bytes are the largest pipe that an unprivileged
	// user has (pipe-max-size, 1 MiB), so what the first process wrote is
	// always within.
	drainBytes = 1 << 20
	drainTime  = 2 * time.Second
	// hangupGrace is how long the session may outlive the user's terminal.
	hangupGrace = 5 * time.Second
)

// An Outcome is how a session ended.
type Outcome struct {
	// Exit is the end of the session's first process if Failure is None.
	Exit session.Exit
	// Failure says why there was no session, or why it broke off.
	Failure session.Failure
	Detail  string
}

func failed(f session.Failure) Outcome { return Outcome{Failure: f} }

// Run asks the daemon that listens at the path socket for a session, attaches
// the process's descriptors 0, 1 and 2 to it and returns when it has ended.
// The request's Streams and Terminal are filled in from the descriptors.
// notice, if not nil, is told a sentence for the user that is no failure.
//
// The terminal is as before when Run returns.
func Run(socket string, req *session.Request, notice func(string)) Outcome {
	tty := openTerminal()
	if tty != nil {
		req.Streams.Tty = true
		req.Streams.SplitStderr = !isTerminal(2)
		req.Terminal = tty.describe()
	}
	frame, err := req.Encode()
	if err != nil {
		return failed(session.TooLong)
	}
	conn, failure := dial(socket)
	if failure != session.None {
		return failed(failure)
	}
	if err := send(conn, frame); err != nil {
		return failed(session.NoAnswer)
	}
	signals := watchSignals() // while the daemon works
	reply, fds, failure := receive(conn, req.Streams)
	_ = unix.Close(conn)
	if failure != session.None {
		return failed(failure)
	}
	if reply.Failure != session.None {
		return Outcome{Failure: reply.Failure, Detail: reply.Detail}
	}
	if reply.Shell != "" && notice != nil {
		notice("the wanted shell is not in your container's image; this is " + reply.Shell)
	}
	if tty != nil {
		tty.raw()
		defer tty.restore()
	}
	s := &attached{control: fds[0], streams: req.Streams, tty: tty}
	return s.run(fds[1:], signals)
}

// attached is a session under way.
type attached struct {
	control int
	streams session.Streams
	tty     *terminal
	master  int // the container's terminal, if streams.Tty

	// ended is closed... by closing the write end of a pipe: whoever polls the
	// read end sees it.
	ended  [2]int
	isOver atomic.Bool
	hungUp atomic.Bool
}

// run relays until the end. ends are the descriptors after the control socket.
func (s *attached) run(ends []int, signals <-chan os.Signal) Outcome {
	if err := unix.Pipe2(s.ended[:], unix.O_CLOEXEC); err != nil {
		return failed(session.Internal)
	}
	in, out := ends[0], ends[0]
	errs := -1
	if !s.streams.Tty {
		out, errs = ends[1], ends[2]
	} else {
		s.master = ends[0]
		if s.streams.SplitStderr {
			errs = ends[1]
		}
	}
	go s.forwardSignals(signals)
	go s.feed(in)
	var relays sync.WaitGroup
	relays.Go(func() { s.drain(1, out) })
	if errs >= 0 {
		relays.Go(func() { s.drain(2, errs) })
	}
	exit, failure := s.wait()
	s.isOver.Store(true)
	_ = unix.Close(s.ended[1])
	relays.Wait()
	return Outcome{Exit: exit, Failure: failure}
}

// wait returns how the session's first process ended.
func (s *attached) wait() (session.Exit, session.Failure) {
	buf := make([]byte, 64)
	for {
		n, err := read(s.control, buf)
		if err != nil || n == 0 {
			if s.hungUp.Load() {
				return session.Exit{Signal: uint8(unix.SIGHUP)}, session.None
			}
			return session.Exit{}, session.SessionLost
		}
		if exit, err := session.DecodeExit(buf[:n]); err == nil {
			return exit, session.None
		}
	}
}

// feed relays descriptor 0 inward.
func (s *attached) feed(in int) {
	buf := make([]byte, block)
	for {
		n, err := read(0, buf)
		if n <= 0 || err != nil {
			break
		}
		if err := writeAll(in, buf[:n]); err != nil {
			break
		}
	}
	if s.streams.Tty {
		// A terminal that ends has been hung up (tty_ioctl(4)).
		s.hangup()
		return
	}
	_ = unix.Close(in)
}

// drain relays the descriptor from outward to the descriptor to.
func (s *attached) drain(to, from int) {
	buf := make([]byte, block)
	var after int
	var since time.Time
	for {
		over := s.isOver.Load()
		if over && since.IsZero() {
			since = time.Now()
		}
		if over && after > drainBytes && time.Since(since) > drainTime {
			break
		}
		ready, ok := s.await(from, over)
		if !ok {
			break
		}
		if !ready {
			continue
		}
		n, err := read(from, buf)
		if n <= 0 || err != nil { // EIO is the end of a terminal
			break
		}
		if over {
			after += n
		}
		if err := writeAll(to, buf[:n]); err != nil {
			break
		}
	}
	// The writer inside learns that nobody reads: SIGPIPE, or a hang-up.
	_ = unix.Close(from)
}

// await waits until from can be read. It returns false, true when the first
// process ended meanwhile, and false, false when nothing comes any more.
func (s *attached) await(from int, over bool) (ready, ok bool) {
	fds := []unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}, {Fd: int32(s.ended[0])}}
	timeout := -1
	if over {
		fds, timeout = fds[:1], int(grace/time.Millisecond)
	}
	n, err := unix.Poll(fds, timeout)
	if err == unix.EINTR {
		return false, true
	}
	if err != nil || n == 0 {
		return false, false
	}
	return fds[0].Revents != 0, true
}

// hangup tells the session that its terminal is gone, and ends the relay if
// the session does not end by itself.
func (s *attached) hangup() {
	if s.hungUp.Swap(true) {
		return
	}
	s.signal(unix.SIGHUP)
	time.AfterFunc(hangupGrace, func() { _ = unix.Shutdown(s.control, unix.SHUT_RDWR) })
}

func (s *attached) signal(sig unix.Signal) {
	_, _ = unix.Write(s.control, session.Signal{Number: uint8(sig)}.Encode())
}
