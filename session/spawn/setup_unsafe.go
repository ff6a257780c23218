package spawn

import (
	"errors"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/session"
)

// Setup makes the process what PID 1 of a user's container has to be. An
// error means that it must not serve: something is not protected.
func Setup(boot *session.Boot) error {
	if f, err := os.Open("/proc/self/exe"); err == nil {
		f.Close()
		return errors.New("own file is readable inside: PID 1 could be taken over")
	}
	unix.Umask(0o022)
	heedSignals()
	writeAccounts(boot)
	linkTools()
	makeRunDirs("/run")
	return dropRights(boot.Seccomp)
}

// heedSignals gives every ignored signal its default action, for what is ignored
// here would be so in every session (execve(2)). glibc's posix_spawn leaves two
// of its internal signals ignored, so that it depended on carreld's parent.
//
// The signals that people send get it, too. The kernel drops those of them that
// come from inside the namespace, and all but SIGKILL and SIGSTOP from outside
// (SIGNAL_UNKILLABLE; pid_namespaces(7)); with the handlers of the Go runtime,
// each would end PID 1. To catch them all would take a thread for life.
func heedSignals() {
	type action struct{ handler, flags, restorer, mask uintptr } // rt_sigaction(2)
	const ignored = 1
	for sig := uintptr(1); sig <= 64; sig++ {
		var old, normal action
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&old)), 8, 0, 0)
		if errno == 0 && (old.handler == ignored || slices.Contains(sent, unix.Signal(sig))) {
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&normal)), 0, 8, 0, 0)
		}
	}
}

// sent are the signals that nothing but kill(2) raises in a process like this.
var sent = []unix.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGPWR,
	unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGPOLL, unix.SIGXCPU, unix.SIGXFSZ, unix.SIGVTALRM, unix.SIGPROF,
}

// kept are the capabilities, in the container's own user namespace, that PID 1
// works with: it gives terminals to their user, changes to the user's ids, and
// signals. None of them passes an exec, for the bounding set is emptied.
const kept = 1<<unix.CAP_CHOWN | 1<<unix.CAP_KILL | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETUID

// dropRights empties the bounding set, keeps the capabilities above, sets
// no_new_privs and loads the filter; on all threads, those of the Go runtime
// included (AllThreadsSyscall; seccomp(2), SECCOMP_FILTER_FLAG_TSYNC).
func dropRights(filter []byte) error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err != nil || has == 0 {
			continue
		}
		if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0); errno != 0 {
			return os.NewSyscallError("prctl PR_CAPBSET_DROP", errno)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	sets := [2]unix.CapUserData{{Effective: kept, Permitted: kept}}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET,
		uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0)
	if errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	_, _, errno = syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("prctl PR_SET_NO_NEW_PRIVS", errno)
	}
	return loadFilter(filter)
}

// loadFilter loads a filter of struct sock_filter in the machine's order.
func loadFilter(filter []byte) error {
	size := int(unsafe.Sizeof(unix.SockFilter{}))
	n := len(filter) / size
	if n == 0 {
		return nil
	}
	program := make([]unix.SockFilter, n) // aligned, as filter need not be
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&program[0])), n*size), filter)
	fprog := unix.SockFprog{Len: uint16(n), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}
