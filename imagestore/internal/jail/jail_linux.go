// Package jail takes from the calling process, for good, whatever applying a
// layer does not need. It expects to start as the root of a user namespace of
// its own, with empty network, IPC, PID and mount namespaces, and adds:
//
//	descriptors        what was inherited by mistake is closed
//	root directory     the one given, by chroot(2); its mount is detached, so
//	                   there is nothing above it
//	capabilities       CHOWN DAC_OVERRIDE FOWNER FSETID SETFCAP, over the ids
//	                   of the namespace; none in the bounding set
//	no_new_privs       set
//	Landlock           nothing outside that directory, no execution, no device
//	                   or socket nodes, no TCP, no signals to others (where the
//	                   kernel has it, Linux 5.19 and later)
//	seccomp            the calls of seccomp_linux.go fail with EPERM (amd64
//	                   and arm64)
//	limits             memory, CPU time, file size, descriptors, processes
//
// Everything applies to all threads, and what can be read back is.
//
// What is not protected: the amount of data written, other than by the size of
// one file, and the file system's code, which the worker reaches.
package jail

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits are resource limits. Each must be positive.
type Limits struct {
	FileBytes   uint64 // size of one file
	MemoryBytes uint64 // private writable memory (RLIMIT_DATA)
	CPUSeconds  uint64
}

const (
	// addressSpace has room for what the Go runtime reserves and never uses.
	addressSpace = 8 << 30
	// descriptors is more than the deepest recursion of package layer opens.
	descriptors = 512
	// processes is how many threads the Go runtime could want.
	processes = 64
)

// kept are the capabilities that remain. MKNOD is not needed: a whiteout is
// no device (mknod(2), Linux 5.8).
var kept = []uint{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_SETFCAP}

// Enter confines the process to root and returns the descriptor to use from
// then on. It closes root, and every inherited descriptor from first on. After
// an error the process must exit.
func Enter(root *os.File, first int, lim Limits) (*os.File, error) {
	if err := closeInherited(first); err != nil {
		return nil, err
	}
	inside, err := changeRoot(root)
	if err != nil {
		return nil, err
	}
	unix.Umask(0)
	if err := setLimits(lim); err != nil {
		return nil, err
	}
	if err := dropCapabilities(); err != nil {
		return nil, err
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return nil, os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
	}
	if err := restrictFiles(inside); err != nil {
		return nil, err
	}
	filtered, err := filterSyscalls()
	if err != nil {
		return nil, err
	}
	return inside, verify(filtered)
}

// closeInherited closes the descriptors from first on that came through
// execve(2), which are those without FD_CLOEXEC: the Go runtime sets it on
// everything it opens.
func closeInherited(first int) error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < first {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// changeRoot makes root the process's root and current directory. The threads
// share both.
func changeRoot(root *os.File) (*os.File, error) {
	defer root.Close()
	if err := root.Chdir(); err != nil {
		return nil, err
	}
	if err := unix.Chroot("."); err != nil {
		return nil, &os.PathError{Op: "chroot", Path: ".", Err: err}
	}
	return os.Open("/")
}

func setLimits(lim Limits) error {
	for _, l := range []struct {
		name     string
		resource int
		value    uint64
	}{
		{"core", unix.RLIMIT_CORE, 0},
		{"fsize", unix.RLIMIT_FSIZE, lim.FileBytes},
		{"data", unix.RLIMIT_DATA, lim.MemoryBytes},
		{"as", unix.RLIMIT_AS, addressSpace},
		{"cpu", unix.RLIMIT_CPU, lim.CPUSeconds},
		{"nofile", unix.RLIMIT_NOFILE, descriptors},
		{"nproc", unix.RLIMIT_NPROC, processes},
		{"msgqueue", unix.RLIMIT_MSGQUEUE, 0},
		{"memlock", unix.RLIMIT_MEMLOCK, 0},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return os.NewSyscallError("setrlimit("+l.name+")", err)
		}
	}
	return nil
}

// allThreads makes a system call on every thread of the process. Threads that
// are made later inherit what it set.
func allThreads(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(trap, a1, a2, a3, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// dropCapabilities leaves the kept ones in the effective and permitted sets.
func dropCapabilities() error {
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		err := allThreads(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: an older kernel has fewer
			return os.NewSyscallError("prctl(PR_CAPBSET_DROP)", err)
		}
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return os.NewSyscallError("prctl(PR_CAP_AMBIENT)", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := keptSets()
	err := allThreads(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	return os.NewSyscallError("capset", err)
}

// keptSets is the argument of capset(2), low 32 capabilities first.
func keptSets() [2]unix.CapUserData {
	var data [2]unix.CapUserData
	for _, c := range kept {
		data[c/32].Effective |= 1 << (c % 32)
		data[c/32].Permitted |= 1 << (c % 32)
	}
	return data
}

// verify reads back what was set.
func verify(filtered bool) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var got [2]unix.CapUserData
	if err := unix.Capget(&header, &got[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if want := keptSets(); got != want {
		return fmt.Errorf("capabilities are %x after dropping; want %x", got, want)
	}
	nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err != nil || nnp != 1 {
		return fmt.Errorf("no_new_privs is %d (%w) after setting it", nnp, err)
	}
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if filtered && (err != nil || mode != unix.SECCOMP_MODE_FILTER) {
		return fmt.Errorf("seccomp mode is %d (%w) after installing a filter", mode, err)
	}
	return nil
}
