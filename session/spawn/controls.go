package spawn

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// controls waits for the clients of all sessions on one thread. A session
// costs it one system call, and no goroutine until something happens.
type controls struct {
	epoll int
	alarm int // timerfd that bounds a fork

	mu    sync.Mutex
	heard map[int]*control
	ready map[int]func() // other descriptors, and whom to call
}

// A control is a client's control socket. A descriptor's number is used again
// when it is closed, so nobody speaks of one by its number.
type control struct {
	fd      int
	version uint8 // of the protocol
	gone    bool  // and closed; guarded by controls.mu
	// hear is told each frame, and nil once when the client has gone. It must
	// not block.
	hear func(packet []byte)
}

func newControls(late func()) (*controls, error) {
	c := &controls{heard: make(map[int]*control), ready: make(map[int]func())}
	var err error
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if c.alarm, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return c, c.whenReady(c.alarm, func() {
		// Reading fails if the alarm was taken back, or set anew, meanwhile.
		if n, _ := unix.Read(c.alarm, make([]byte, 8)); n == 8 {
			late()
		}
	})
}

// whenReady calls f, which must not block, whenever fd can be read.
func (c *controls) whenReady(fd int, f func()) error {
	c.mu.Lock()
	c.ready[fd] = f
	c.mu.Unlock()
	return c.watch(fd)
}

// forget stops that and closes fd.
func (c *controls) forget(fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ready, fd)
	_ = unix.Close(fd)
}

// ignore stops that and leaves fd open.
func (c *controls) ignore(fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ready, fd)
	_ = unix.EpollCtl(c.epoll, unix.EPOLL_CTL_DEL, fd, nil)
}

// pass sends a packet with a descriptor, false if the client has gone.
func (c *controls) pass(to *control, packet []byte, right int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !to.gone &&
		unix.Sendmsg(to.fd, session.In(to.version, packet), unix.UnixRights(right), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) == nil
}

// abandon has nobody send to a control socket that was never added and that
// its owner is about to close.
func (c *controls) abandon(ctl *control) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ctl.gone = true
}

func (c *controls) watch(fd int) error {
	err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	return os.NewSyscallError("epoll_ctl", err)
}

// add listens to a control socket, which controls closes.
func (c *controls) add(ctl *control) error {
	c.mu.Lock()
	c.heard[ctl.fd] = ctl
	c.mu.Unlock()
	return c.watch(ctl.fd)
}

// finish sends the last packet and closes the socket, unless the client has
// gone.
func (c *controls) finish(ctl *control, packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ctl.gone {
		_ = unix.Send(ctl.fd, session.In(ctl.version, packet), unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		c.closeLocked(ctl)
	}
}

func (c *controls) closeLocked(ctl *control) {
	ctl.gone = true
	delete(c.heard, ctl.fd)
	_ = unix.Close(ctl.fd) // and out of the epoll set
}

// within sets the alarm, which repeats itself; 0 takes it back.
func (c *controls) within(d time.Duration) {
	again := unix.NsecToTimespec(int64(d / 10))
	_ = unix.TimerfdSettime(c.alarm, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d)), Interval: again}, nil)
}

// run listens for ever.
func (c *controls) run() {
	events := make([]unix.EpollEvent, 16)
	for {
		n, err := unix.EpollWait(c.epoll, events, -1)
		if err != nil {
			continue // EINTR
		}
		for _, e := range events[:n] {
			c.mu.Lock()
			f := c.ready[int(e.Fd)]
			c.mu.Unlock()
			if f != nil {
				f()
			} else {
				c.hear(int(e.Fd))
			}
		}
	}
}

// hear takes one packet.
func (c *controls) hear(fd int) {
	c.mu.Lock()
	ctl := c.heard[fd]
	if ctl == nil {
		c.mu.Unlock()
		return // finished meanwhile
	}
	buf := make([]byte, 64)
	n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	gone := n == 0 || (err != nil && err != unix.EAGAIN && err != unix.EINTR)
	if gone {
		c.closeLocked(ctl)
	}
	c.mu.Unlock()
	switch {
	case gone:
		ctl.hear(nil)
	case n > 0:
		ctl.hear(buf[:n])
	}
}
