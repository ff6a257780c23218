package attach

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// defaultAction gives sig its default action. os/signal cannot: it leaves the
// runtime's own handler in place, which turns SIGQUIT and SIGSEGV into a stack
// trace and ignores SIGPIPE. The struct is the kernel's (rt_sigaction(2)):
// handler, flags, restorer, mask; all zero is SIG_DFL.
func defaultAction(sig unix.Signal) {
	var action [4]uint64
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}
