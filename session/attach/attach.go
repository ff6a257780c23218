package attach

import (
	"errors"
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
	// drainTime bounds the relay of a stream after the end of the first process,
	// so that a background process that writes for ever cannot keep the session.
	// What the stream held at that end, and with it all that the first process
	// wrote, is relayed however long it takes.
	drainTime = 2 * time.Second
	// maxAgents bounds the connections to the user's agent that are open at one
	// time. Each takes two threads, on the host.
	maxAgents = 32
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
//
// headStart is a connection to the daemon on which the request has been sent
// as a session.HeadStart; -1 is none. Run closes it.
//
// agent is the path of the user's SSH agent socket, "" for none; the
// container's connections to an agent are relayed to it.
func Run(socket string, headStart int, agent string, req *session.Request, notice func(string)) Outcome {
	tty := openTerminal()
	if tty != nil {
		req.Streams.Tty = true
		req.Streams.SplitStderr = !isTerminal(2)
		req.Terminal = tty.describe()
	}
	req.Agent = agent != ""
	answer, failure := ask(socket, headStart, req)
	if failure != session.None {
		return failed(failure)
	}
	reply := answer.reply
	if reply.Failure != session.None {
		return Outcome{Failure: reply.Failure, Detail: reply.Detail}
	}
	if tty != nil && reply.Notice != "" && isTerminal(2) {
		_ = writeAll(2, []byte(reply.Notice))
	}
	if reply.Shell != "" && notice != nil {
		notice("the wanted shell is not in your container's image; this is " + reply.Shell)
	}
	s := &attached{
		control: answer.fds[0], version: answer.version, streams: req.Streams,
		tty: tty, agent: agent, socket: socket, stirred: time.Now(),
	}
	if tty != nil {
		go s.forwardSignals(watchSignals()) // first, or one of them could leave the terminal raw
		tty.raw()
		defer tty.restore()
	}
	return s.run(answer.fds[1:])
}

// attached is a session under way.
type attached struct {
	control int
	version uint8 // that is spoken on control
	streams session.Streams
	tty     *terminal
	agent   string    // path of the user's agent socket
	socket  string    // path of the daemon's
	stirred time.Time // when the daemon was last told that the user is there
	in      int       // terminal's master or stdin's pipe

	relays   sync.WaitGroup // goroutines that drain a stream
	wake     [2]int         // a pipe; its write end is closed when the first process has ended
	isOver   atomic.Bool
	hungUp   atomic.Bool
	watching bool // signals are caught
	agents   atomic.Int32
}

// An output is a stream from the session. It is relayed by the main loop
// while it is a trickle, and by a goroutine of its own from then on.
type output struct {
	from, to int
	done     bool // or somebody else's
	rest     rest
}

// A rest is what a stream may still bring when the first process has ended.
type rest struct {
	since time.Time // the end; zero before it
	bytes int       // that were there then and have not been relayed
}

// over notes the end, once.
func (r *rest) over(from int) {
	if r.since.IsZero() {
		r.since = time.Now()
		r.bytes, _ = unix.IoctlGetInt(from, unix.TIOCINQ)
	}
}

// relayed takes n bytes off and is true when there has been enough.
func (r *rest) relayed(n int) bool {
	if r.since.IsZero() {
		return false
	}
	r.bytes -= n
	return r.bytes <= 0 && time.Since(r.since) > drainTime
}

// run relays until the end. ends are the descriptors after the control socket.
func (s *attached) run(ends []int) Outcome {
	if err := unix.Pipe2(s.wake[:], unix.O_CLOEXEC); err != nil {
		return failed(session.Internal)
	}
	s.in = ends[0]
	outs := []*output{{from: ends[0], to: 1}}
	if !s.streams.Tty {
		outs = []*output{{from: ends[1], to: 1}, {from: ends[2], to: 2}}
	} else if s.streams.SplitStderr {
		outs = append(outs, &output{from: ends[1], to: 2})
	}
	exit, failure := s.loop(outs)
	s.relays.Wait()
	return Outcome{Exit: exit, Failure: failure}
}

// signalDelay is how long a session without a terminal runs before signals
// are caught. Until then a signal ends carrelsh, and with it the session, as
// it would end a command; most commands are over by then, and catching costs
// two threads.
const signalDelay = 30 * time.Millisecond

// loop waits for whatever comes first and handles what cannot block. Most
// sessions write little or nothing, and never leave it.
func (s *attached) loop(outs []*output) (exit session.Exit, failure session.Failure) {
	reading := true // descriptor 0, here
	var small [smallest]byte
	var gone closed
	for {
		fds := []unix.PollFd{{Fd: -1, Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLIN}}
		over := s.isOver.Load()
		if !over {
			fds[0].Fd = int32(s.control)
		}
		if reading && !over {
			fds[1].Fd = 0
		}
		fds = append(fds, gone.watch(s.tty != nil || over)...)
		left := false
		for _, o := range outs {
			fd := int32(-1) // poll(2) passes over it
			if !o.done {
				fd, left = int32(o.from), true
				if over {
					o.rest.over(o.from)
				}
			}
			fds = append(fds, unix.PollFd{Fd: fd, Events: unix.POLLIN})
		}
		if over && !left {
			return exit, failure
		}
		n, err := unix.Poll(fds, s.timeout(over))
		switch {
		case err != nil: // EINTR
			continue
		case n == 0 && over:
			return exit, failure // somebody holds the other end and says nothing
		case n == 0:
			s.watching = true
			go s.forwardSignals(watchSignals())
			continue
		}
		if gone.note(fds[2:5]) {
			s.vanish()
		}
		for i, o := range outs {
			if fds[5+i].Revents != 0 {
				s.forward(o, small[:])
			}
		}
		if fds[1].Revents != 0 {
			reading = false
			s.startFeed(small[:])
		}
		if fds[0].Revents != 0 {
			var ended bool
			if exit, failure, ended = s.listen(); ended {
				s.isOver.Store(true)
				_ = unix.Close(s.wake[1])
			}
		}
	}
}

// closed says which of the descriptors 0, 1 and 2 have nobody at their other
// end. Without a terminal that is the only sign of a client that has vanished:
// sshd closes its ends and sends no signal. One of them alone means nothing:
// stdin ends where it was read to its end, and head(1) closes its pipe early.
// A file or /dev/null has no other end, and then nobody can vanish.
type closed [3]bool

// watch returns what to poll for it.
func (c closed) watch(never bool) []unix.PollFd {
	fds := []unix.PollFd{{Fd: -1}, {Fd: -1}, {Fd: -1}}
	for i := range fds {
		if !never && !c[i] { // it would be ready for ever
			fds[i].Fd = int32(i) // for POLLHUP and POLLERR, which are always told
		}
	}
	return fds
}

// note takes the answer and is true when the last of them has closed.
func (c *closed) note(fds []unix.PollFd) bool {
	news := false
	for i := range fds {
		if fds[i].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			c[i], news = true, true
		}
	}
	return news && c[0] && c[1] && c[2]
}

// timeout is poll's, in milliseconds.
func (s *attached) timeout(over bool) int {
	switch {
	case over:
		return int(grace / time.Millisecond)
	case !s.watching && s.tty == nil:
		return int(signalDelay / time.Millisecond)
	}
	return -1
}

// listen takes one packet off the control socket: how the session's first
// process ended, or a connection to an agent.
func (s *attached) listen() (exit session.Exit, failure session.Failure, ended bool) {
	buf, oob := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(s.control, buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if errors.Is(err, unix.ECONNRESET) {
		// Init closed its end before it had read our last signal. The kernel tells
		// that once, ahead of what init sent.
		n, oobn, _, _, err = unix.Recvmsg(s.control, buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	}
	fds := rights(oob[:oobn])
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return exit, failure, false
	}
	if err == nil && len(fds) == 1 && session.KindOf(buf[:n]) == session.KindAgent {
		if s.agents.Add(1) > maxAgents {
			s.agents.Add(-1)
			_ = unix.Close(fds[0])
			return exit, failure, false
		}
		go func() {
			defer s.agents.Add(-1)
			s.relayAgent(fds[0])
		}()
		return exit, failure, false
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	if err == nil && n > 0 {
		if exit, err = session.DecodeExit(buf[:n]); err == nil {
			return exit, session.None, true
		}
	}
	if s.hungUp.Load() {
		return session.Exit{Signal: uint8(unix.SIGHUP)}, session.None, true
	}
	return session.Exit{}, session.SessionLost, true
}

// smallest is what a reader that poll(2) says is ready takes without blocking
// the writer: any pipe has room for PIPE_BUF bytes, a terminal's output for
// somewhat less (n_tty_poll in drivers/tty/n_tty.c).
const smallest = 512

// forward relays what is there. It hands the stream to a goroutine when there
// is more than a little, or its reader is slow.
func (s *attached) forward(o *output, buf []byte) {
	n, err := read(o.from, buf)
	if n <= 0 || err != nil { // EIO is the end of a terminal
		o.done = true
		_ = unix.Close(o.from)
		return
	}
	ready := []unix.PollFd{{Fd: int32(o.to), Events: unix.POLLOUT}}
	if n < len(buf) {
		if _, err := unix.Poll(ready, 0); err == nil && ready[0].Revents&unix.POLLOUT != 0 {
			if writeAll(o.to, buf[:n]) != nil || o.rest.relayed(n) {
				o.done = true
				_ = unix.Close(o.from)
			}
			return
		}
	}
	o.done = true
	first := append([]byte(nil), buf[:n]...)
	o.rest.bytes -= n
	s.relays.Go(func() { s.drain(o.to, o.from, first, o.rest) })
}

// startFeed takes what descriptor 0 is ready to give. That is often its end,
// which costs no goroutine. It does not wait for more if somebody else who reads
// it has been quicker.
func (s *attached) startFeed(buf []byte) {
	n, err := unix.Preadv2(0, [][]byte{buf}, -1, unix.RWF_NOWAIT)
	switch {
	case err != nil: // a terminal's reads know no RWF_NOWAIT
		go s.feed(nil)
	case n == 0:
		s.endFeed()
	default:
		s.stir()
		go s.feed(append([]byte(nil), buf[:n]...))
	}
}

// feed relays descriptor 0 inward.
func (s *attached) feed(first []byte) {
	defer s.endFeed()
	if writeAll(s.in, first) != nil {
		return
	}
	p := newPassage(0, s.in)
	for {
		_, err := await([]unix.PollFd{{Fd: 0, Events: unix.POLLIN}}, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		p.fed = true
		n, err := p.pass()
		switch {
		case errors.Is(err, unix.EAGAIN): // somebody else reads it, too
			continue
		case n <= 0 || err != nil:
			return
		}
		s.stir()
	}
}

func (s *attached) endFeed() {
	if s.streams.Tty {
		s.vanish() // a terminal that ends has been hung up (tty_ioctl(4))
		return
	}
	_ = unix.Close(s.in)
}

// drain relays the descriptor from outward to the descriptor to.
func (s *attached) drain(to, from int, first []byte, left rest) {
	// The writer inside learns that nobody reads: SIGPIPE, or a hang-up.
	defer unix.Close(from)
	if writeAll(to, first) != nil {
		return
	}
	// The description is this process's alone: init has closed its copy.
	_ = unix.SetNonblock(from, true)
	// A stream: with more room its writer sleeps less often. A terminal has none
	// to give.
	_, _ = unix.FcntlInt(uintptr(from), unix.F_SETPIPE_SZ, 4*block)
	p := newPassage(from, to)
	for {
		over := s.isOver.Load()
		if over {
			left.over(from)
		}
		n, err := p.pass()
		switch {
		case errors.Is(err, unix.EAGAIN):
			if !s.await(from, over) {
				return
			}
			p.fed = true
			continue
		case n <= 0 || err != nil || left.relayed(n):
			return
		}
	}
}

// await waits until from can be read, or the first process has ended. It is
// false when nothing comes any more.
func (s *attached) await(from int, over bool) bool {
	fds := []unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}, {Fd: int32(s.wake[0])}}
	timeout := -1
	if over {
		fds, timeout = fds[:1], int(grace/time.Millisecond)
	}
	n, err := await(fds, timeout)
	return errors.Is(err, unix.EINTR) || err == nil && n > 0
}

// vanish leaves the session, for there is nobody to relay for. Init sees the
// control socket close, and ends it.
func (s *attached) vanish() {
	s.hungUp.Store(true)
	_ = unix.Shutdown(s.control, unix.SHUT_RDWR)
}

// hangup passes SIGHUP on, and leaves the session if it does not end by itself.
func (s *attached) hangup() {
	if s.hungUp.Swap(true) {
		return
	}
	s.signal(unix.SIGHUP)
	time.AfterFunc(hangupGrace, func() { _ = unix.Shutdown(s.control, unix.SHUT_RDWR) })
}

func (s *attached) signal(sig unix.Signal) {
	_, _ = unix.Write(s.control, session.In(s.version, session.Signal{Number: uint8(sig)}.Encode()))
}
