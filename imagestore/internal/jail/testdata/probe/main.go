// Command probe tries what a worker that an archive has taken over would try,
// inside the jail or, with -free, in the namespaces alone. It reports each
// attempt as a record: its name and the error.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/imagestore/internal/jail"
	"github.com/carrel-sh/carrel/imagestore/internal/wire"
)

func main() {
	free := flag.Bool("free", false, "do not enter the jail")
	memory := flag.Int("memory", 0, "use that many MiB and report nothing else")
	flag.Parse()
	report("environment", fmt.Errorf("%q", os.Environ()))
	// Threads that exist before the jail.
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range 4 {
		ready.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			ready.Done()
			<-start
			report(fmt.Sprintf("thread %d: host file", i), open("/etc/passwd"))
			report(fmt.Sprintf("thread %d: socket", i), call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0))
			report(fmt.Sprintf("thread %d: capabilities", i), capabilities())
		})
	}
	ready.Wait()
	root := os.NewFile(3, "root")
	if *free {
		if err := root.Chdir(); err != nil {
			fail(err)
		}
	} else if _, err := jail.Enter(root, 5, jail.Limits{FileBytes: 1 << 20, MemoryBytes: 256 << 20, CPUSeconds: 10}); err != nil {
		fail(err)
	}
	if *memory > 0 {
		hog(*memory)
	}
	close(start)
	done.Wait()
	probes()
	send(wire.Record{Kind: wire.KindDone})
}

func probes() {
	null := uintptr(unsafe.Pointer(&[]byte("/nonexistent\x00")[0]))
	report("descriptors", fmt.Errorf("%v", descriptors()))
	report("capabilities", capabilities())
	report("host file", open("/etc/passwd"))
	report("host file from here", open("../../../../../../../etc/passwd"))
	report("proc", open("/proc/self/status"))
	report("exec", call(unix.SYS_EXECVE, null, 0, 0))
	report("fork", fork())
	report("ptrace", call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, 4194304, 0)) // nobody has that id
	report("mount", unix.Mount("none", "/mnt", "tmpfs", 0, ""))
	report("new namespace", unix.Unshare(unix.CLONE_NEWNS))
	report("set groups", unix.Setgroups(nil))
	report("inet socket", call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0))
	report("unix socket", call(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0))
	report("netlink socket", call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, 0))
	report("io_uring", call(unix.SYS_IO_URING_SETUP, 0, 0, 0))
	report("handle", call(unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0))
	report("keyring", call(unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, 0xffffffff, 0))
	report("device", unix.Mknod("device", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	report("socket node", unix.Mknod("socket", unix.S_IFSOCK|0o666, 0))
	report("large file", large())
	report("whiteout", unix.Mknod("whiteout", unix.S_IFCHR, 0))
	report("directory", os.Mkdir("directory", 0o755))
	report("give away", os.Lchown("directory", 65535, 65535))
	report("give to nobody of ours", os.Lchown("directory", 65536, 0))
	report("change root", unix.Chroot("."))
}

func call(trap, a1, a2, a3 uintptr) error {
	if _, _, errno := unix.Syscall(trap, a1, a2, a3); errno != 0 {
		return errno
	}
	return nil
}

func open(path string) error {
	f, err := os.Open(path)
	if err == nil {
		f.Close()
	}
	return err
}

// fork makes a process that leaves at once. Without the runtime's knowledge
// that is all it may do.
//
//go:norace
func fork() error {
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		for {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := unix.Wait4(int(pid), nil, 0, nil)
	return err
}

// large writes more than one file may have, with SIGXFSZ as the runtime
// leaves it.
func large() error {
	f, err := os.Create("large")
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), 2<<20)
	return err
}

func capabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	return fmt.Errorf("%x %x %x", data[0].Effective, data[0].Permitted, data[0].Inheritable)
}

// descriptors lists those that came through execve(2) and are still open. 3 is
// the directory, which Enter closes.
func descriptors() []int {
	var open []int
	for fd := range 1024 {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			open = append(open, fd)
		}
	}
	return open
}

// hog uses memory.
func hog(mib int) {
	var all [][]byte
	for range mib {
		all = append(all, slices.Repeat([]byte{1}, 1<<20))
	}
	report("memory", fmt.Errorf("%d", len(all)))
}

var mu sync.Mutex

func send(rec wire.Record) {
	mu.Lock()
	defer mu.Unlock()
	_, _ = unix.Write(4, wire.Append(nil, rec))
}

func report(name string, err error) {
	text := "done"
	if err != nil {
		text = err.Error()
	}
	send(wire.Record{Kind: wire.KindDevice, Path: name + "=" + text})
}

func fail(err error) {
	send(wire.Record{Kind: wire.KindFailed, Text: err.Error()})
	os.Exit(1)
}
