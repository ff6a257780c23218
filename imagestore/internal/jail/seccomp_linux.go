package jail

import (
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are the calls that fail with EPERM: what starts programs, reaches
// other processes, changes mounts or namespaces, opens sockets, or has been
// the way into the kernel. It is a second belt, so it names what is dangerous
// instead of what the Go runtime needs this year.
var denied = []uint32{
	// programs and processes
	unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
	unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_KCMP, unix.SYS_PROCESS_MADVISE, unix.SYS_PERSONALITY,
	// mounts, roots, namespaces
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
	unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_UNSHARE, unix.SYS_SETNS,
	// sockets
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
	unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_RECVMSG, unix.SYS_RECVMMSG,
	// handles that do not walk paths
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT,
	// large machinery
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER,
	unix.SYS_IO_URING_REGISTER, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_IO_SETUP, unix.SYS_IO_SUBMIT,
	unix.SYS_SPLICE, unix.SYS_TEE, unix.SYS_VMSPLICE, unix.SYS_FANOTIFY_INIT, unix.SYS_INOTIFY_INIT1, unix.SYS_MEMFD_CREATE,
	unix.SYS_SHMGET, unix.SYS_SEMGET, unix.SYS_MSGGET, unix.SYS_MQ_OPEN,
	// the machine
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT, unix.SYS_SWAPON,
	unix.SYS_SWAPOFF, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG,
}

// filterSyscalls installs the filter on all threads. It reports false on an
// architecture whose numbers are not known here.
func filterSyscalls() (bool, error) {
	if auditArch == 0 {
		return false, nil
	}
	prog := program()
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return false, os.NewSyscallError("seccomp", errno)
	}
	return true, nil
}

// Offsets in struct seccomp_data (seccomp(2)); the architectures here are
// little-endian.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArg0   = 16
)

// program returns the filter as classic BPF.
func program() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	// skip goes to the instruction after the next if the condition is true.
	skip := func(condition uint16, k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | condition | unix.BPF_K, Jt: 1, K: k}
	}
	unless := func(condition uint16, k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | condition | unix.BPF_K, Jf: 1, K: k}
	}
	ret := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	eperm := ret(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM))
	prog := []unix.SockFilter{
		load(offsetArch), skip(unix.BPF_JEQ, auditArch), ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(offsetNumber),
		// x32 has numbers of its own from 0x40000000.
		unless(unix.BPF_JGE, 0x40000000), eperm,
		// clone3(2) hides its flags behind a pointer; callers fall back.
		unless(unix.BPF_JEQ, unix.SYS_CLONE3), ret(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
	}
	for _, nr := range slices.Concat(denied, deniedHere) {
		prog = append(prog, unless(unix.BPF_JEQ, nr), eperm)
	}
	// clone(2) makes threads, never processes.
	return append(prog,
		skip(unix.BPF_JEQ, unix.SYS_CLONE), ret(unix.SECCOMP_RET_ALLOW),
		load(offsetArg0), skip(unix.BPF_JSET, unix.CLONE_THREAD), eperm,
		ret(unix.SECCOMP_RET_ALLOW),
	)
}
