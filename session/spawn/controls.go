package spawn

import (
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// controls waits for the clients of all sessions on one thread. A session
// costs it one system call, and no goroutine until something happens.
type controls struct {
	epoll int
	alarm int    // timerfd that bounds a fork
	late  func() // called when the alarm goes off

	mu    sync.Mutex // held while a descriptor is read, so that it is not closed and reused meanwhile
	heard map[int]listener
}

// A listener hears of a control socket. packet is one frame, nil once when the
// client has gone; the socket is closed by then. It must not block.
type listener func(packet []byte)

func newControls(late func()) (*controls, error) {
	c := &controls{late: late, heard: make(map[int]listener)}
	var err error
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if c.alarm, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return c, c.watch(c.alarm)
}

func (c *controls) watch(fd int) error {
	err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	return os.NewSyscallError("epoll_ctl", err)
}

// add listens to the control socket fd, which controls closes.
func (c *controls) add(fd int, l listener) error {
	c.mu.Lock()
	c.heard[fd] = l
	c.mu.Unlock()
	return c.watch(fd)
}

// finish sends the last packet on fd and closes it, unless the client has gone.
func (c *controls) finish(fd int, packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard[fd] == nil {
		return
	}
	delete(c.heard, fd)
	_ = unix.Send(fd, packet, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	_ = unix.Close(fd) // and out of the epoll set
}

// within sets the alarm; 0 takes it back.
func (c *controls) within(d time.Duration) {
	_ = unix.TimerfdSettime(c.alarm, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil)
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
			if int(e.Fd) == c.alarm {
				c.within(0) // no longer readable
				c.late()
				continue
			}
			c.hear(int(e.Fd))
		}
	}
}

// hear takes one packet.
func (c *controls) hear(fd int) {
	c.mu.Lock()
	l := c.heard[fd]
	if l == nil {
		c.mu.Unlock()
		return // finished meanwhile
	}
	buf := make([]byte, 64)
	n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	gone := n == 0 || (err != nil && err != unix.EAGAIN && err != unix.EINTR)
	if gone {
		delete(c.heard, fd)
		_ = unix.Close(fd)
	}
	c.mu.Unlock()
	switch {
	case gone:
		l(nil)
	case n > 0:
		l(buf[:n])
	}
}
