package attach

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go runtime watches a system call of package unix: when it takes more than
// 20 microseconds another thread takes over the processor, and both are woken.
// For a stream of large blocks that is thousands of wake-ups a second, which
// the programs at its ends pay for on a busy host. The calls here are kept from
// the runtime, so they must not block: it could stop for nothing meanwhile, and
// a signal would not be heard.

// alone says that there is one processor for all goroutines, and nothing may
// be kept from them.
var alone = runtime.GOMAXPROCS(0) < 2

// await is poll(2) for a wait that is mostly short: its first millisecond is
// kept from the runtime.
func await(fds []unix.PollFd, timeout int) (int, error) {
	if !alone {
		short := unix.Timespec{Nsec: 1e6}
		n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), uintptr(unsafe.Pointer(&short)), 0, 0, 0)
		if errno == 0 && n > 0 {
			return int(n), nil
		}
	}
	return unix.Poll(fds, timeout)
}

// spliceNow is splice(2) where SPLICE_F_NONBLOCK holds for both ends.
func spliceNow(from, to int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, block, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
