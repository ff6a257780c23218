package seccomp

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// load puts the program on every thread of the process, as PID 1 does.
func load(program []unix.SockFilter, flags uintptr) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// pointer is for calls that need one to something of ours.
func pointer(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
