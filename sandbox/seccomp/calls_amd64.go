package seccomp

import "golang.org/x/sys/unix"

// auditArch is the architecture that the kernel reports for the native entry
// (linux/audit.h). x32 reports it too, but sets bit 30 of the number, so its
// calls are unknown ones.
const auditArch = unix.AUDIT_ARCH_X86_64

// allowedHere are the calls of moby's list that only this architecture has.
var allowedHere = [...]uint32{
	unix.SYS_ACCESS,
	unix.SYS_ALARM,
	unix.SYS_ARCH_PRCTL,
	unix.SYS_CHMOD,
	unix.SYS_CHOWN,
	unix.SYS_CREAT,
	unix.SYS_DUP2,
	unix.SYS_EPOLL_CREATE,
	unix.SYS_EPOLL_CTL_OLD,
	unix.SYS_EPOLL_WAIT,
	unix.SYS_EPOLL_WAIT_OLD,
	unix.SYS_EVENTFD,
	unix.SYS_FORK,
	unix.SYS_FUTIMESAT,
	unix.SYS_GETDENTS,
	unix.SYS_GETPGRP,
	unix.SYS_GET_THREAD_AREA,
	unix.SYS_INOTIFY_INIT,
	unix.SYS_LCHOWN,
	unix.SYS_LINK,
	unix.SYS_LSTAT,
	unix.SYS_MKDIR,
	unix.SYS_MKNOD,
	unix.SYS_OPEN,
	unix.SYS_PAUSE,
	unix.SYS_PIPE,
	unix.SYS_POLL,
	unix.SYS_READLINK,
	unix.SYS_RENAME,
	unix.SYS_RMDIR,
	unix.SYS_SELECT,
	unix.SYS_SET_THREAD_AREA,
	unix.SYS_SIGNALFD,
	unix.SYS_STAT,
	unix.SYS_SYMLINK,
	unix.SYS_TIME,
	unix.SYS_UNLINK,
	unix.SYS_UTIME,
	unix.SYS_UTIMES,
	unix.SYS_VFORK,
}

// deniedHere are this architecture's own refused calls: port access, segment
// descriptors (modify_ldt is in moby's list; CVE-2015-5157 and others), relics
// that give information away, and the probes that the kernel makes for itself,
// which Linux 6.14 and later do not show to filters.
var deniedHere = [...]uint32{
	unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_MODIFY_LDT, unix.SYS_URETPROBE, unix.SYS_UPROBE,
	unix.SYS_USELIB, unix.SYS_USTAT, unix.SYS_SYSFS,
}
