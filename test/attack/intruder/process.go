package main

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attackProcess tries everything by which one process takes over another, or
// looks into it (ptrace(2), "Ptrace access mode checking").
func attackProcess(r *report, args []string) {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		r.tell("pid", err)
		return
	}
	runtime.LockOSThread() // a tracer is a thread
	dir := "/proc/" + args[0] + "/"
	r.tell("seize", seize(pid))
	r.tell("attach", attach(pid))
	for _, name := range []string{"mem", "exe", "environ", "maps", "auxv", "pagemap", "stack", "syscall"} {
		r.tell("read "+name, readSome(dir+name))
	}
	f, err := os.OpenFile(dir+"mem", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	r.tell("write mem", err)
	for _, name := range []string{"root", "cwd", "exe", "ns/pid", "ns/mnt"} {
		_, err := os.Readlink(dir + name)
		r.tell("link "+name, err)
	}
	_, err = os.ReadDir(dir + "fd")
	r.tell("list fd", err)
	_, err = os.ReadDir(dir + "root/")
	r.tell("list root", err)
	buf := make([]byte, 8)
	local := []unix.Iovec{{Base: &buf[0], Len: 8}}
	_, err = unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: address(dir), Len: 8}}, 0)
	r.tell("process_vm_readv", err)
	r.tell("pidfd_getfd", getfd(pid))
	_, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(pid), 2, 0, 0, 0) // KCMP_FILES
	r.tell("kcmp", asError(errno))
	_, _, errno = unix.Syscall6(unix.SYS_MIGRATE_PAGES, uintptr(pid), 0, 0, 0, 0, 0)
	r.tell("migrate_pages", asError(errno))
	r.tell("prlimit", unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, new(unix.Rlimit)))
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func seize(pid int) error {
	if err := unix.PtraceSeize(pid); err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(pid); err != nil {
		return err
	}
	return letGo(pid)
}

func letGo(pid int) error {
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	return unix.PtraceDetach(pid)
}

func attach(pid int) error {
	if err := unix.PtraceAttach(pid); err != nil {
		return err
	}
	return letGo(pid)
}

// readSome opens a file and reads a little. Where the content itself cannot be
// had, as at address 0 of mem, the opening counts.
func readSome(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if strings.HasSuffix(path, "/mem") {
		return nil
	}
	_, err = f.Read(make([]byte, 64))
	return err
}

// address returns one that is mapped in the process, if that can be learnt.
func address(dir string) uintptr {
	b, err := os.ReadFile(dir + "maps")
	first, _, _ := strings.Cut(string(b), "-")
	n, perr := strconv.ParseUint(first, 16, 64)
	if err != nil || perr != nil {
		return 0x400000
	}
	return uintptr(n)
}

func getfd(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	got, err := unix.PidfdGetfd(fd, 0, 0)
	if err == nil {
		_ = unix.Close(got)
	}
	return err
}

// attackTerminal tries to type into every terminal that it can reach. The
// second number has bits above the 32 that the kernel looks at (CVE-2019-10063).
func attackTerminal(r *report, _ []string) {
	fds := []int{}
	for fd := range 256 {
		if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err == nil {
			fds = append(fds, fd)
		}
	}
	if fd, err := unix.Open("/dev/tty", unix.O_RDWR, 0); err == nil {
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		_, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		r.tell("TIOCGWINSZ", err)
		for name, request := range map[string]uintptr{
			"TIOCSTI": unix.TIOCSTI, "TIOCSTI+1<<32": unix.TIOCSTI + 1<<32, "TIOCLINUX": unix.TIOCLINUX,
			"TIOCLINUX+1<<32": unix.TIOCLINUX + 1<<32,
		} {
			r.tell(name, ioctl(fd, request))
		}
	}
}
