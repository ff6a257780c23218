package seccomp

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
)

var update = flag.Bool("update", false, "write the golden files")

// helperEnv holds "PROBE filtered" or "PROBE bare" in a helper process.
const helperEnv = "CARREL_SECCOMP_TEST_HELPER"

// A report is what a helper found, by probe: "ok" or the errno.
type report map[string]string

var helpers = map[string]func() report{"fate": fate, "real": real, "init": initWork}

func init() { runtime.LockOSThread() } // the thread that loads is the main one

func TestMain(m *testing.M) {
	if job := os.Getenv(helperEnv); job != "" {
		if err := helper(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// The marker turns every call that no later filter denies into errMarked, when
// its sixth argument is mark: so each number can be tried without being done.
// Of two ERRNO results the newer filter's counts (seccomp(2)).
const (
	mark      = 0x5EC0
	errMarked = unix.Errno(4000)
)

func marker() []unix.SockFilter {
	return []unix.SockFilter{
		{Code: opLoad, K: offArgs + 8*5},
		{Code: opJEQ, Jt: 0, Jf: 1, K: mark},
		{Code: opRet, K: uint32(Errno(errMarked))},
		{Code: opRet, K: uint32(Allow)},
	}
}

func helper(job string) error {
	name, mode, _ := strings.Cut(job, " ")
	if name == "fate" {
		if err := load(marker(), unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil {
			return err
		}
	}
	if mode == "filtered" {
		program, err := Assemble(Default())
		if err != nil {
			return err
		}
		if err := load(program, unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(helpers[name]())
}

// probe runs a helper.
func probe(t *testing.T, name, mode string) report {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+name+" "+mode, "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("helper %s %s: %v", name, mode, err)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// word is the result of a call in one word.
func word(err error) string {
	errno := syscall.Errno(0)
	switch {
	case errors.Is(err, errMarked):
		return "allow"
	case errors.As(err, &errno) && errno == 0, err == nil:
		return "ok"
	case errors.As(err, &errno) && unix.ErrnoName(errno) != "":
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// tried is the highest number that the tables are tried with.
const tried = 600

// probes tells uretprobe and uprobe of amd64, which are for the kernel's own
// trampolines: Linux 6.14 and later never show them to a filter
// (__secure_computing), and kill with SIGILL who calls them from elsewhere.
func probes(call int) bool { return runtime.GOARCH == "amd64" && (call == 335 || call == 336) }

// fate tries every number, and every socket family, under the marker.
func fate() report {
	r := make(report)
	try := func(key string, call uintptr, args ...uintptr) {
		args = append(args, 0, 0, 0, 0, 0)
		_, _, errno := unix.RawSyscall6(call, args[0], args[1], args[2], args[3], args[4], mark)
		r[key] = word(errno)
	}
	for call := range uintptr(tried) {
		if probes(int(call)) {
			continue
		}
		try(fmt.Sprint("call ", call), call)
		try(fmt.Sprint("x32 ", call), call|0x40000000)
	}
	for family := range uintptr(47) {
		for kind := range uintptr(11) {
			try(fmt.Sprintf("socket %d %d", family, kind), unix.SYS_SOCKET, family, kind)
		}
		try(fmt.Sprintf("socket %d high", family), unix.SYS_SOCKET, family|1<<32, 1|1<<32)
		try(fmt.Sprintf("socketpair %d", family), unix.SYS_SOCKETPAIR, family, 1)
	}
	for proto := range uintptr(33) {
		try(fmt.Sprintf("netlink %d", proto), unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, proto)
		try(fmt.Sprintf("netlink %d high", proto), unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, proto|1<<40)
	}
	for _, cmd := range []uintptr{unix.TIOCSTI, tioclinux, unix.TIOCGWINSZ, 0x5441} { // TIOCGPTPEER
		try(fmt.Sprintf("ioctl %#x", cmd), unix.SYS_IOCTL, 0, cmd)
		try(fmt.Sprintf("ioctl %#x high", cmd), unix.SYS_IOCTL, 0, cmd|1<<32)
	}
	for bit := range 32 {
		try(fmt.Sprintf("clone %#x", 1<<bit), unix.SYS_CLONE, 1<<bit)
	}
	for _, persona := range []uintptr{0, 8, 0x20000, 0x40000, 0x400000, 0x440000, 0xffffffff, 1<<32 | 0x40000} {
		try(fmt.Sprintf("personality %#x", persona), unix.SYS_PERSONALITY, persona)
	}
	return r
}

// names reads the table of x/sys: number to name.
func names(t *testing.T) map[int]string {
	t.Helper()
	dir, err := exec.Command(testneed.Tool(t, "go"), "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "unix", "zsysnum_linux_"+runtime.GOARCH+".go"))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[int]string)
	for _, m := range regexp.MustCompile(`SYS_(\w+)\s*=\s*(\d+)`).FindAllStringSubmatch(string(data), -1) {
		n, _ := strconv.Atoi(m[2])
		out[n] = strings.ToLower(m[1])
	}
	return out
}

// TestCalls tries each number in the kernel and compares with the golden file,
// which is where a change of the tables is reviewed. Calls with a rule are tried
// with arguments of zero.
func TestCalls(t *testing.T) {
	testneed.Root(t)
	filtered, bare := probe(t, "fate", "filtered"), probe(t, "fate", "bare")
	name := names(t)
	var b strings.Builder
	for call := range tried {
		if probes(call) {
			continue
		}
		key := fmt.Sprint("call ", call)
		got := filtered[key]
		if bare[key] != "allow" {
			t.Errorf("twin: call %d without the filter = %s; want it to pass", call, bare[key])
		}
		switch {
		case name[call] != "":
			fmt.Fprintln(&b, call, name[call], got)
		case got != "ENOSYS":
			t.Errorf("call %d, which has no name, = %s; want ENOSYS", call, got)
		}
		if x32 := filtered[fmt.Sprint("x32 ", call)]; x32 != "ENOSYS" {
			t.Errorf("x32 call %d = %s; want ENOSYS", call, x32)
		}
	}
	golden(t, "calls_"+runtime.GOARCH+".golden", b.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("no %s yet: run with -update on this architecture", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s: -want +got:\n%s", path, diff)
	}
}

// TestSockets is the matrix of families, types and netlink protocols; it is the
// same on every kernel, since nothing of it is done.
func TestSockets(t *testing.T) {
	testneed.Root(t)
	filtered, bare := probe(t, "fate", "filtered"), probe(t, "fate", "bare")
	var keys []string
	for key := range filtered {
		if kind, _, _ := strings.Cut(key, " "); kind == "socket" || kind == "socketpair" || kind == "netlink" {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, natural)
	var b strings.Builder
	for _, key := range keys {
		fmt.Fprintln(&b, key, filtered[key])
		if bare[key] != "allow" {
			t.Errorf("twin: %s without the filter = %s; want it to pass", key, bare[key])
		}
	}
	golden(t, "sockets.golden", b.String())
}

// natural sorts numbers in words by value.
func natural(a, b string) int {
	wa, wb := strings.Fields(a), strings.Fields(b)
	for i := range min(len(wa), len(wb)) {
		na, ea := strconv.Atoi(wa[i])
		nb, eb := strconv.Atoi(wb[i])
		c := strings.Compare(wa[i], wb[i])
		if ea == nil && eb == nil {
			c = na - nb
		}
		if c != 0 {
			return c
		}
	}
	return len(wa) - len(wb)
}

func TestRules(t *testing.T) {
	testneed.Root(t)
	got := probe(t, "fate", "filtered")
	want := map[string]string{
		"ioctl 0x5412": "EPERM", "ioctl 0x5412 high": "EPERM",
		"ioctl 0x541c": "EPERM", "ioctl 0x541c high": "EPERM",
		"ioctl 0x5413": "allow", "ioctl 0x5441": "allow", "ioctl 0x5413 high": "allow",
		"personality 0x0": "allow", "personality 0x40000": "allow", "personality 0xffffffff": "allow",
		"personality 0x8": "EPERM", "personality 0x20000": "EPERM", "personality 0x400000": "EPERM",
		"personality 0x440000": "EPERM", "personality 0x100040000": "allow", // the kernel reads 32 bits
	}
	for bit := range 32 {
		fate := "allow"
		if 1<<bit&0x7e020000 != 0 {
			fate = "EPERM"
		}
		want[fmt.Sprintf("clone %#x", 1<<bit)] = fate
	}
	for key, fate := range want {
		if got[key] != fate {
			t.Errorf("%s = %q; want %s", key, got[key], fate)
		}
	}
}

// real makes calls in earnest.
func real() report {
	r := make(report)
	raw := func(key string, call uintptr, args ...uintptr) {
		args = append(args, 0, 0, 0, 0, 0, 0)
		n, _, errno := unix.Syscall6(call, args[0], args[1], args[2], args[3], args[4], args[5])
		if r[key] = word(errno); errno == 0 && strings.HasPrefix(key, "fd ") {
			unix.Close(int(n))
		}
	}
	raw("fd uevent socket", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)
	raw("fd generic netlink socket", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC)
	raw("fd routing socket", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	raw("fd tcp socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0)
	pair := make([]byte, 8)
	raw("inet socketpair", unix.SYS_SOCKETPAIR, unix.AF_INET, unix.SOCK_STREAM, 0, pointer(pair))
	raw("keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 1) // KEY_SPEC_SESSION_KEYRING
	raw("fd userfaultfd", unix.SYS_USERFAULTFD, 1)                             // UFFD_USER_MODE_ONLY
	raw("bpf", unix.SYS_BPF, ^uintptr(0))
	raw("perf_event_open", unix.SYS_PERF_EVENT_OPEN)
	raw("name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT)
	raw("clone3", unix.SYS_CLONE3)
	raw("mount", unix.SYS_MOUNT)
	raw("fd fsopen", unix.SYS_FSOPEN, pointer([]byte("tmpfs\x00")))
	raw("personality READ_IMPLIES_EXEC", unix.SYS_PERSONALITY, 0x400000)
	raw("personality ADDR_NO_RANDOMIZE", unix.SYS_PERSONALITY, addrNoRandomize)
	raw("unknown number", 599)

	for name, flags := range map[string]uintptr{"user": unix.CLONE_NEWUSER, "network": unix.CLONE_NEWNET} {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Cloneflags: flags}})
		r["child in a new "+name+" namespace"] = word(err)
		if err == nil {
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		r["unshare"] = word(unix.Unshare(unix.CLONE_NEWUTS))
	}()
	<-done
	master, slave, err := pty.Open()
	if err != nil {
		r["pty"] = err.Error()
		return r
	}
	defer master.Close()
	defer slave.Close()
	raw("TIOCSTI", unix.SYS_IOCTL, slave.Fd(), unix.TIOCSTI, pointer([]byte("x")))
	raw("TIOCSTI high", unix.SYS_IOCTL, slave.Fd(), unix.TIOCSTI|1<<32, pointer([]byte("x")))
	raw("TIOCLINUX", unix.SYS_IOCTL, slave.Fd(), tioclinux, pointer([]byte{0}))
	return r
}

// TestReal shows for each denial that the same call has another result without
// the filter.
func TestReal(t *testing.T) {
	testneed.Root(t)
	filtered, bare := probe(t, "real", "filtered"), probe(t, "real", "bare")
	want := map[string]string{
		"fd uevent socket": "EAFNOSUPPORT", "fd generic netlink socket": "EAFNOSUPPORT",
		"inet socketpair": "EAFNOSUPPORT",
		"keyctl":          "EPERM", "fd userfaultfd": "EPERM", "bpf": "EPERM", "perf_event_open": "EPERM",
		"name_to_handle_at": "EPERM", "clone3": "ENOSYS", "mount": "EPERM", "fd fsopen": "EPERM",
		"personality READ_IMPLIES_EXEC": "EPERM", "child in a new user namespace": "EPERM",
		"child in a new network namespace": "EPERM", "unshare": "EPERM",
		"TIOCSTI": "EPERM", "TIOCSTI high": "EPERM", "TIOCLINUX": "EPERM",
	}
	same := map[string]string{
		"fd routing socket": "ok", "fd tcp socket": "ok", "personality ADDR_NO_RANDOMIZE": "ok", "unknown number": "ENOSYS",
	}
	for key, fate := range want {
		if filtered[key] != fate {
			t.Errorf("%s = %q; want %s", key, filtered[key], fate)
		}
		if bare[key] == fate || bare[key] == "" {
			t.Errorf("twin: %s without the filter = %q; want another result", key, bare[key])
		}
	}
	for key, fate := range same {
		if filtered[key] != fate || bare[key] != fate {
			t.Errorf("%s = %q, without the filter %q; want %s", key, filtered[key], bare[key], fate)
		}
	}
	if len(filtered) != len(want)+len(same) {
		t.Errorf("probes %v; want each of them judged", filtered)
	}
}

// The entry of i386 is shut, socketcall and all.
func TestForeign(t *testing.T) {
	testneed.Root(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("int 0x80 is of amd64")
	}
	helpers := map[string]string{"filtered": strconv.Itoa(-int(unix.ENOSYS)), "bare": "a pid"}
	for mode, want := range helpers {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestForeignHelper$", "-test.v")
		cmd.Env = append(os.Environ(), "CARREL_SECCOMP_FOREIGN="+mode, "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		m := regexp.MustCompile(`int80 = (\S+)`).FindStringSubmatch(string(out))
		if m == nil {
			if mode == "bare" {
				t.Logf("the twin died: no i386 in this kernel? %v", err)
				continue
			}
			t.Fatalf("%s: %v\n%s", mode, err, out)
		}
		got := m[1]
		if n, err := strconv.Atoi(got); err == nil && n > 0 {
			got = "a pid"
		}
		if got != want {
			t.Errorf("%s: getpid of i386 = %s; want %s", mode, m[1], want)
		}
	}
}

// TestForeignHelper is the process of TestForeign.
func TestForeignHelper(t *testing.T) {
	mode := os.Getenv("CARREL_SECCOMP_FOREIGN")
	if mode == "" {
		return
	}
	runtime.LockOSThread()
	if mode == "filtered" {
		program, err := Assemble(Default())
		if err != nil {
			t.Fatal(err)
		}
		if err := load(program, unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil {
			t.Fatal(err)
		}
	}
	const getpid = 20 // of i386
	if result, ok := int80(getpid); ok {
		fmt.Println("int80 =", result)
	}
}

// initWork does what a Go PID 1 does for a session.
func initWork() report {
	r := make(report)
	dir, err := os.MkdirTemp("", "carrel-seccomp")
	if err != nil {
		return report{"temp": err.Error()}
	}
	defer os.RemoveAll(dir)
	dirfd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	r["open"] = word(err)
	r["mkdirat"] = word(unix.Mkdirat(dirfd, "leaf", 0o755))
	r["unlinkat"] = word(unix.Unlinkat(dirfd, "leaf", unix.AT_REMOVEDIR))

	var out [2]int
	r["pipe2"] = word(unix.Pipe2(out[:], unix.O_CLOEXEC))
	pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "id -u; id -G; exit 7"}, &syscall.ProcAttr{
		Files: []uintptr{0, uintptr(out[1]), 2},
		Env:   []string{"PATH=/usr/bin:/bin"},
		Sys: &syscall.SysProcAttr{
			Setsid:     true,
			Credential: &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{65534, 100}},
		},
	})
	r["fork"] = word(err)
	unix.Close(out[1])
	data, err := readAll(out[0])
	r["child says"] = fmt.Sprintf("%q %s", data, word(err))
	pidfd, err := unix.PidfdOpen(pid, 0)
	r["pidfd_open"] = word(err)
	r["pidfd_send_signal"] = word(unix.PidfdSendSignal(pidfd, 0, nil, 0))
	var status syscall.WaitStatus
	_, err = syscall.Wait4(pid, &status, 0, nil)
	r["wait4"] = fmt.Sprint(word(err), " ", status.ExitStatus())

	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	r["socketpair"] = word(err)
	r["sendmsg"] = word(unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(out[0]), nil, 0))
	_, _, _, _, err = unix.Recvmsg(pair[1], make([]byte, 8), make([]byte, 64), unix.MSG_CMSG_CLOEXEC)
	r["recvmsg"] = word(err)

	master, slave, err := pty.Open()
	r["pty"] = word(err)
	if err == nil {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), 0x5441, unix.O_RDWR|unix.O_NOCTTY) // TIOCGPTPEER
		r["TIOCGPTPEER"] = word(errno)
		r["winsize"] = word(pty.Setsize(slave, &pty.Winsize{Rows: 10, Cols: 20}))
		r["fchown"] = word(slave.Chown(0, 0))
		master.Close()
		slave.Close()
	}
	ticker := time.NewTicker(time.Millisecond) // the runtime's timers, threads and poller
	for range 3 {
		<-ticker.C
	}
	runtime.GC()
	r["kill"] = word(unix.Kill(os.Getpid(), 0))
	r["prctl"] = word(unix.Prctl(unix.PR_SET_NAME, pointer([]byte("init\x00")), 0, 0, 0))
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	r["capget"] = word(unix.Capget(&header, &caps[0]))
	r["capset"] = word(unix.Capset(&header, &caps[0]))
	return r
}

func readAll(fd int) (string, error) {
	f := os.NewFile(uintptr(fd), "pipe")
	buf := make([]byte, 256)
	var out []byte
	for {
		n, err := f.Read(buf)
		out = append(out, buf[:n]...)
		if err != nil {
			return string(out), nil //nolint:nilerr // end of file
		}
	}
}

// Under the filter a Go program does all that PID 1 has to.
func TestInit(t *testing.T) {
	testneed.Root(t)
	for key, got := range probe(t, "init", "filtered") {
		want := "ok"
		switch key {
		case "child says":
			want = `"65534\n65534 100\n" ok`
		case "wait4":
			want = "ok 7"
		}
		if got != want {
			t.Errorf("%s = %s; want %s", key, got, want)
		}
	}
}

// BenchmarkLoad is the price of one load on one thread, thread included; the
// twin has a filter of one instruction.
func BenchmarkLoad(b *testing.B) {
	testneed.Root(b)
	program, err := Assemble(Default())
	if err != nil {
		b.Fatal(err)
	}
	for name, p := range map[string][]unix.SockFilter{"default": program, "one": {{Code: opRet, K: uint32(Allow)}}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				done := make(chan error)
				go func() {
					runtime.LockOSThread() // the thread ends, and its filter
					done <- load(p, 0)
				}()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
