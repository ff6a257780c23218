package host

import (
	"fmt"
	"runtime"
	"syscall"
)

// As runs f on a thread of its own that has the ids of the account, so that a
// peer on a Unix socket sees them. f must not start goroutines to do its work.
// The main goroutine must be locked to the first thread of the process, which
// cannot end (call runtime.LockOSThread from a package's init function).
func As(a Account, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		result <- func() error {
			// The methods of package syscall would change every thread.
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
				return fmt.Errorf("setgroups: %w", errno)
			}
			gid, uid := uintptr(a.GID), uintptr(a.UID)
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, gid, gid, gid); errno != 0 {
				return fmt.Errorf("setresgid: %w", errno)
			}
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); errno != 0 {
				return fmt.Errorf("setresuid: %w", errno)
			}
			return f()
		}()
	}()
	return <-result
}
