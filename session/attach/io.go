package attach

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// read is read(2) that is not interrupted, and that waits where a stranger
// left the descriptor non-blocking.
func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		switch err {
		case unix.EINTR:
		case unix.EAGAIN:
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		default:
			return n, err
		}
	}
}

// writeAll writes all of buf.
func writeAll(fd int, buf []byte) error {
	for len(buf) > 0 {
		n, err := unix.Write(fd, buf)
		switch err {
		case nil:
			buf = buf[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
		default:
			return err
		}
	}
	return nil
}

// A passage passes bytes from one descriptor to another, many of them. Where
// both are pipes, or a Unix socket leads into one, the kernel passes the pages
// (splice(2)), and carrelsh sees none of it.
//
// Nothing is spliced into anything but a pipe. In a file, splice takes no lock
// on the offset, so that two streams into one file overwrite each other; and
// while a socket has no room it keeps the lock of the pipe that it reads from, so
// that whoever writes to that inside cannot be killed (do_splice in fs/splice.c).
type passage struct {
	from, to int
	splices  bool
	quick    bool // splice cannot block
	little   bool // came last time
	fed      bool // from is known to have something
	buf      []byte
}

// newPassage returns one for the descriptors, which stay the caller's.
func newPassage(from, to int) *passage {
	kind := func(fd int) uint32 {
		var st unix.Stat_t
		_ = unix.Fstat(fd, &st)
		return st.Mode & unix.S_IFMT
	}
	// Not from TCP, where splice heeds no SPLICE_F_NONBLOCK.
	source := kind(from) == unix.S_IFIFO
	if domain, err := unix.GetsockoptInt(from, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil {
		source = domain == unix.AF_UNIX
	}
	splices := source && kind(to) == unix.S_IFIFO
	return &passage{from: from, to: to, splices: splices, quick: splices && !alone}
}

// pass passes what is there, at most block bytes, and returns how many that
// were; 0 is the end of from. EAGAIN says that from has nothing: wait for it,
// set fed and call again. It waits itself for room in to.
func (p *passage) pass() (n int, err error) {
	for {
		switch {
		case !p.splices || p.little:
			n, err = p.copy()
		case p.quick:
			n, err = spliceNow(p.from, p.to)
		default:
			var moved int64
			moved, err = unix.Splice(p.from, nil, p.to, nil, block, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
			n = int(moved)
		}
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && p.fed && p.splices && !p.little: // so it is to that has no room
			_, _ = await([]unix.PollFd{{Fd: int32(p.to), Events: unix.POLLOUT}}, -1)
			p.fed = false
		default:
			p.fed = false
			if err == nil {
				// Each piece that is spliced takes a page's place in the pipe, which
				// has 16, however small it is; written ones share.
				p.little = n < os.Getpagesize()
			}
			return n, err
		}
	}
}

func (p *passage) copy() (int, error) {
	if p.buf == nil {
		p.buf = make([]byte, block)
	}
	n, err := unix.Read(p.from, p.buf)
	if n <= 0 || err != nil {
		return 0, err
	}
	return n, writeAll(p.to, p.buf[:n])
}
