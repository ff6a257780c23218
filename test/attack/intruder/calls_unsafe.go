package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctl(fd int, request uintptr) error {
	typed := []byte("x")
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&typed[0])))
	return asError(errno)
}

func text(s string) uintptr {
	b := append([]byte(s), 0)
	return uintptr(unsafe.Pointer(&b[0]))
}

// attackCalls makes system calls that nobody inside has a use for. The
// arguments are ones that do no harm where a call is allowed.
func attackCalls(r *report, _ []string) {
	zero := make([]byte, 256)
	p := uintptr(unsafe.Pointer(&zero[0]))
	call := func(name string, number uintptr, a ...uintptr) {
		a = append(a, 0, 0, 0, 0, 0, 0)
		fd, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 && fd > 2 {
			_ = unix.Close(int(fd))
		}
		r.tell(name, asError(errno))
	}
	perf := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	here := int(unix.AT_FDCWD)
	call("add_key", unix.SYS_ADD_KEY, text("user"), text("intruder"), p, 1, ^uintptr(1))
	call("keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 1)
	call("request_key", unix.SYS_REQUEST_KEY, text("user"), text("none"), 0, 0)
	call("bpf", unix.SYS_BPF, 0, p, 72)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&perf)), 0, ^uintptr(0), ^uintptr(0), 0)
	call("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, p)
	call("userfaultfd", unix.SYS_USERFAULTFD, 1) // UFFD_USER_MODE_ONLY
	call("name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, uintptr(here), text("/"), p, p+128, 0)
	call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, uintptr(here), p, 0)
	call("fsopen", unix.SYS_FSOPEN, text("tmpfs"), 0)
	call("open_tree", unix.SYS_OPEN_TREE, uintptr(here), text("/"), unix.OPEN_TREE_CLONE)
	call("mount", unix.SYS_MOUNT, text("none"), text("/nowhere"), text("tmpfs"), 0, 0)
	call("umount2", unix.SYS_UMOUNT2, text("/nowhere"), 0)
	call("pivot_root", unix.SYS_PIVOT_ROOT, text("/nowhere"), text("/nowhere"))
	call("chroot", unix.SYS_CHROOT, text("/"))
	call("setns", unix.SYS_SETNS, nsfd(), 0)
	call("syslog", unix.SYS_SYSLOG, 10) // SYSLOG_ACTION_SIZE_BUFFER
	call("acct", unix.SYS_ACCT, text("/nowhere"))
	call("swapoff", unix.SYS_SWAPOFF, text("/nowhere"))
	call("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, ^uintptr(0))
	call("delete_module", unix.SYS_DELETE_MODULE, text("nothing"), unix.O_NONBLOCK)
	call("sethostname", unix.SYS_SETHOSTNAME, p, ^uintptr(0))
	call("modify_ldt", unix.SYS_MODIFY_LDT, 0, p, 16)
	call("iopl", unix.SYS_IOPL, 0)
	call("quotactl", unix.SYS_QUOTACTL, 0x800003<<8, 0, 0, p)
	call("memfd_secret", unix.SYS_MEMFD_SECRET, 0)
	call("setuid", unix.SYS_SETUID, 0)
	call("setgroups", unix.SYS_SETGROUPS, 0, 0)
	node := fmt.Sprintf("%s/intruder-%d", os.TempDir(), os.Getpid())
	call("mknod", unix.SYS_MKNOD, text(node), unix.S_IFCHR|0o666, uintptr(unix.Mkdev(1, 3)))
	_ = os.Remove(node)
	namespaces := []struct {
		name string
		flag uintptr
	}{
		{"user", unix.CLONE_NEWUSER}, {"mnt", unix.CLONE_NEWNS}, {"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS},
		{"ipc", unix.CLONE_NEWIPC}, {"cgroup", unix.CLONE_NEWCGROUP}, {"pid", unix.CLONE_NEWPID},
	}
	for _, ns := range namespaces {
		r.tell("clone "+ns.name, clone(ns.flag))
	}
	for _, ns := range namespaces[1:] { // a process with threads cannot leave its user namespace at all
		call("unshare "+ns.name, unix.SYS_UNSHARE, ns.flag)
	}
}

func nsfd() uintptr {
	fd, err := unix.Open("/proc/self/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ^uintptr(0)
	}
	return uintptr(fd)
}

// clone starts a child in a namespace of its own.
func clone(flag uintptr) error {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"intruder"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: flag}})
	if err == nil {
		_, err = unix.Wait4(pid, nil, 0, nil)
	}
	return err
}

// attackSockets makes a socket of each family, type and protocol of netlink.
func attackSockets(r *report, _ []string) {
	for family := range 50 {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				_ = unix.Close(fd)
				r.tell(fmt.Sprintf("socket %d %d", family, kind), nil)
			}
		}
	}
	for protocol := range 24 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
		if err == nil {
			_ = unix.Close(fd)
			r.tell(fmt.Sprintf("netlink %d", protocol), nil)
		}
	}
}
