package leaf_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
)

// hostID is where container root of the tests is on the host: an id that no
// account has.
const hostID = 1_900_000_000

// helperEnv names what the test binary does when it runs as PID 1 of a
// container: a key of helpers.
const helperEnv = "CARREL_LEAF_TEST_HELPER"

// A report is what the helper found, by step.
type report map[string]string

// Enter must not happen on the main thread, as its documentation says.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		os.Exit(helper(name))
	}
	os.Exit(m.Run())
}

// helper runs inside the user and pid namespace once the parent has put it into
// the box.
func helper(name string) int {
	if _, err := io.ReadAll(os.Stdin); err != nil {
		return 2
	}
	mode, _ := strconv.Atoi(os.Args[1])
	count, _ := strconv.Atoi(os.Args[2])
	var fds []int
	for i := range count {
		fds = append(fds, 3+i)
	}
	r := make(report)
	box, err := leaf.Inherit(leaf.Mode(mode), fds)
	if err != nil {
		r["inherit"] = err.Error()
	} else {
		helpers[name](r, box, fds)
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return 2
	}
	return 0
}

var helpers = map[string]func(r report, box *leaf.Box, fds []int){
	"session": helpSession,
	"denied":  helpDenied,
	"forks":   helpForks,
	"deep":    helpDeep,
}

// word is the bare error, which reads the same for every file.
func word(err error) string {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	if err == nil {
		return "ok"
	}
	return err.Error()
}

// spawn starts argv in the leaf as carrel-init does.
func spawn(l *leaf.Leaf, mode leaf.Mode, argv ...string) (pid int, err error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, err
	}
	sys := &syscall.SysProcAttr{}
	if mode == leaf.V2 {
		sys.UseCgroupFD, sys.CgroupFD = true, l.FD()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if mode == leaf.V1 {
			runtime.LockOSThread() // and never unlocked: the thread ends here
			if err = l.Enter(); err != nil {
				return
			}
		}
		pid, err = syscall.ForkExec(path, argv, &syscall.ProcAttr{Env: os.Environ(), Sys: sys})
	}()
	<-done
	return pid, err
}

// remove removes the leaf, waiting for what is still on its way out of it.
func remove(l *leaf.Leaf) error {
	var err error
	for range 500 {
		if err = l.Remove(); err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(2 * time.Millisecond)
	}
	return err
}

func helpSession(r report, box *leaf.Box, _ []int) {
	l, err := box.New("s1")
	r["new"] = word(err)
	if err != nil {
		return
	}
	defer l.Close()
	_, err = box.New("s1")
	r["new again"] = word(err)
	if box.Mode() == leaf.V2 {
		r["enter"] = word(l.Enter())
	} else {
		r["fd"] = strconv.Itoa(l.FD())
	}
	before, _ := os.ReadFile("/proc/self/cgroup")
	pid, err := spawn(l, box.Mode(), "sleep", "600")
	r["spawn"] = word(err)
	after, _ := os.ReadFile("/proc/self/cgroup")
	r["own cgroup kept"] = strconv.FormatBool(string(before) == string(after))
	time.Sleep(20 * time.Millisecond) // the thread that entered ends
	pids, err := l.Pids()
	r["pids"] = fmt.Sprint(slices.Equal(pids, []int{pid}), err)
	r["remove busy"] = word(l.Remove())
	r["kill"] = word(l.Kill())
	var status syscall.WaitStatus
	_, err = syscall.Wait4(pid, &status, 0, nil)
	r["wait"] = fmt.Sprint(word(err), " ", status.Signal())
	r["remove"] = word(remove(l))
	r["remove again"] = word(l.Remove())
	for _, bad := range []string{"", ".", "..", "a/b", "a\nb", "a\x00b"} {
		if _, err := box.New(bad); !errors.Is(err, leaf.ErrName) {
			r["bad name "+bad] = word(err)
		}
	}
}

// controlFiles are those of the box that container root must not write.
var controlFiles = []string{
	"pids.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us",
	"freezer.state", "tasks", "memory.max", "cpu.max", "cgroup.subtree_control", "cgroup.kill",
	"cgroup.freeze", "cgroup.max.depth", "notify_on_release",
}

// helpDenied tries, as container root, what only host root may.
func helpDenied(r report, _ *leaf.Box, fds []int) {
	for i, dir := range fds {
		for _, where := range []string{"", "../"} {
			for _, file := range controlFiles {
				fd, err := unix.Openat(dir, where+file, unix.O_WRONLY, 0)
				if err == nil {
					unix.Close(fd)
				}
				r[fmt.Sprint(i, " ", where, file)] = word(err)
			}
		}
		r[fmt.Sprint(i, " mkdir beside the box")] = word(unix.Mkdirat(dir, "../evil", 0o755))
		r[fmt.Sprint(i, " rmdir the box")] = word(unix.Unlinkat(dir, "../box", unix.AT_REMOVEDIR))
		r[fmt.Sprint(i, " chown")] = word(unix.Fchownat(dir, "pids.max", 0, 0, 0))
	}
}

func helpForks(r report, box *leaf.Box, _ []int) {
	l, err := box.New("s1")
	r["new"] = word(err)
	if err != nil {
		return
	}
	defer l.Close()
	_, err = spawn(l, box.Mode(), "sh", "-c", "while :; do (trap '' TERM; sleep 0.01) & done")
	r["spawn"] = word(err)
	time.Sleep(200 * time.Millisecond)
	stop := make(chan struct{})
	reaped := make(chan struct{})
	go func() { // as PID 1 does
		defer close(reaped)
		for {
			_, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			select {
			case <-stop:
				if err == syscall.ECHILD {
					return
				}
			default:
			}
			time.Sleep(100 * time.Microsecond)
		}
	}()
	r["kill"] = word(l.Kill())
	close(stop)
	<-reaped
	pids, err := l.Pids()
	r["left"] = fmt.Sprint(len(pids), word(err))
	r["remove"] = word(remove(l))
}

// helpDeep leaves nested leaves behind for the host to clear.
func helpDeep(r report, box *leaf.Box, fds []int) {
	_, err := box.New("s1")
	r["new"] = word(err)
	for _, dir := range fds {
		for _, path := range []string{"s1/a", "s1/a/b", "s2"} {
			if err := unix.Mkdirat(dir, path, 0o755); err != nil {
				r["mkdir "+path] = word(err)
			}
		}
	}
}

// A host is one group to run helpers in.
type host struct {
	h cgroup.Hierarchy
	g *cgroup.Group
}

// eachHost runs f with a fresh group on the host's own hierarchy and, on a
// hybrid host, on its cgroup2 mount alone. The group must be empty afterwards
// and leaves nothing behind.
func eachHost(t *testing.T, f func(t *testing.T, host host)) {
	testneed.Root(t)
	own, err := cgroup.Detect()
	if err != nil {
		testneed.Unmet(t, "needs cgroups: %v", err)
	}
	all := map[string]cgroup.Hierarchy{own.String(): own}
	if own.Hybrid() {
		all["v2 of hybrid"] = cgroup.Hierarchy{Mode: leaf.V2, Unified: own.Unified}
	}
	for name, h := range all {
		t.Run(name, func(t *testing.T) {
			parent := fmt.Sprintf("/carrel-leaf-test-%d", os.Getpid())
			g, _, err := h.Create(parent, "u1000", cgroup.Limits{Pids: 0})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx := context.Background()
				if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
					t.Error(err)
				}
				for _, m := range h.V1 {
					_ = unix.Rmdir(filepath.Join(m, parent))
				}
				_ = unix.Rmdir(filepath.Join(h.Unified, parent))
				if names, err := h.List(filepath.Dir(parent + "/x")); err != nil || len(names) != 0 {
					t.Errorf("left behind: %q, %v", names, err)
				}
			})
			f(t, host{h, g})
		})
	}
}

// run runs a helper as PID 1 of a user and pid namespace, in the box.
func (host host) run(t *testing.T, name string, controllers ...string) report {
	t.Helper()
	dirs, mode, err := host.g.BoxDirs(controllers...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, d := range dirs {
			d.Close()
		}
	}()
	cmd := exec.Command("/proc/self/exe", strconv.Itoa(int(mode)), strconv.Itoa(len(dirs)))
	// The race detector would sleep a second at the end of each helper.
	cmd.Env = append(os.Environ(), helperEnv+"="+name, "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = dirs
	cmd.Stderr = os.Stderr
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: hostID, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
		Pdeathsig:  syscall.SIGKILL,
	}
	ready, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		err := os.WriteFile(filepath.Join(d.Name(), "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0)
		if err != nil {
			t.Error(err)
		}
	}
	ready.Close()
	r := make(report)
	derr := json.NewDecoder(out).Decode(&r)
	if err := errors.Join(derr, cmd.Wait()); err != nil {
		t.Fatalf("helper %s: %v", name, err)
	}
	return r
}

// One session from inside a user namespace, from birth to removal.
func TestSession(t *testing.T) {
	eachHost(t, func(t *testing.T, host host) {
		if err := host.g.Delegate(hostID, hostID); err != nil {
			t.Fatal(err)
		}
		want := report{
			"new": "ok", "new again": "EEXIST", "spawn": "ok", "own cgroup kept": "true",
			"pids": "true <nil>", "remove busy": "EBUSY", "kill": "ok", "wait": "ok killed",
			"remove": "ok", "remove again": "ok",
		}
		if host.h.Mode == leaf.V1 {
			want["fd"] = "-1"
		} else {
			want["enter"] = leaf.ErrMode.Error()
		}
		if diff := cmp.Diff(want, host.run(t, "session")); diff != "" {
			t.Errorf("session in a user namespace: -want +got:\n%s", diff)
		}
	})
}

// On v1 the pids hierarchy alone is enough.
func TestSessionPidsOnly(t *testing.T) {
	eachHost(t, func(t *testing.T, host host) {
		if host.h.Mode != leaf.V1 {
			return
		}
		if err := host.g.Delegate(hostID, hostID); err != nil {
			t.Fatal(err)
		}
		got := host.run(t, "session", "pids")
		if got["spawn"] != "ok" || got["pids"] != "true <nil>" || got["remove"] != "ok" {
			t.Errorf("session with one hierarchy = %v", got)
		}
	})
}

// The twin of TestSession: without Delegate nothing can be made.
func TestSessionNotDelegated(t *testing.T) {
	eachHost(t, func(t *testing.T, host host) {
		want := report{"new": "EACCES"}
		if diff := cmp.Diff(want, host.run(t, "session")); diff != "" {
			t.Errorf("session without delegation: -want +got:\n%s", diff)
		}
	})
}

// Container root changes no limit, moves nothing and makes nothing outside the
// box. The twin: every file that it could not open is writable for host root.
func TestDenied(t *testing.T) {
	eachHost(t, func(t *testing.T, host host) {
		if err := host.g.Delegate(hostID, hostID); err != nil {
			t.Fatal(err)
		}
		dirs, _, err := host.g.BoxDirs()
		if err != nil {
			t.Fatal(err)
		}
		denied := 0
		for key, got := range host.run(t, "denied") {
			at, what, _ := strings.Cut(key, " ")
			i, _ := strconv.Atoi(at)
			switch got {
			case "ENOENT": // another hierarchy's file
				if _, err := os.Stat(filepath.Join(dirs[i].Name(), what)); err == nil {
					t.Errorf("%s in %s = ENOENT; want it denied", what, dirs[i].Name())
				}
			case "EACCES", "EPERM":
				denied++
				base := filepath.Base(what)
				if !slices.Contains(controlFiles, base) {
					continue
				}
				f, err := os.OpenFile(filepath.Join(dirs[i].Name(), what), os.O_WRONLY, 0)
				if err != nil {
					t.Errorf("twin: host root opens %s: %v", what, err)
					continue
				}
				f.Close()
			default:
				t.Errorf("%s in %s = %s; want EACCES or EPERM", what, dirs[i].Name(), got)
			}
		}
		for _, d := range dirs {
			d.Close()
		}
		if denied < 10 {
			t.Errorf("only %d files were there to be denied", denied)
		}
	})
}

func TestKillForkLoop(t *testing.T) {
	eachHost(t, func(t *testing.T, host host) {
		if err := host.g.Delegate(hostID, hostID); err != nil {
			t.Fatal(err)
		}
		want := report{"new": "ok", "spawn": "ok", "kill": "ok", "left": "0ok", "remove": "ok"}
		if diff := cmp.Diff(want, host.run(t, "forks")); diff != "" {
			t.Errorf("fork loop: -want +got:\n%s", diff)
		}
	})
}

// What an init that died left below the box goes with the group.
func TestRemoveForeignLeaves(t *testing.T) {
	eachHost(t, func(t *testing.T, host host) {
		if err := host.g.Delegate(hostID, hostID); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(report{"new": "ok"}, host.run(t, "deep")); diff != "" {
			t.Errorf("nested leaves: -want +got:\n%s", diff)
		}
		if err := host.g.Remove(context.Background()); err != nil {
			t.Errorf("Remove = %v", err)
		}
	})
}

// New is all or nothing: a name taken in a later hierarchy undoes the others.
func TestNewUndone(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(b, "s1"), 0o755); err != nil {
		t.Fatal(err)
	}
	box := inherit(t, leaf.V1, a, b)
	if _, err := box.New("s1"); !errors.Is(err, unix.EEXIST) {
		t.Errorf("New = %v; want EEXIST", err)
	}
	if entries, err := os.ReadDir(a); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	l, err := box.New("s2")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Pids(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Pids outside a cgroup file system = %v; want ENOENT", err)
	}
}

// inherit wraps plain directories; the descriptors live as long as the test.
func inherit(t *testing.T, mode leaf.Mode, dirs ...string) *leaf.Box {
	t.Helper()
	var fds []int
	for _, d := range dirs {
		fd, err := unix.Open(d, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
	}
	box, err := leaf.Inherit(mode, fds)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor flags = %#x, %v; want close-on-exec", flags, err)
		}
	}
	return box
}

func TestInheritInvalid(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	tests := []struct {
		mode leaf.Mode
		fds  []int
		want error
	}{
		{0, []int{0}, leaf.ErrMode},
		{3, []int{0}, leaf.ErrMode},
		{leaf.V1, nil, leaf.ErrMode},
		{leaf.V2, []int{0, 1}, leaf.ErrMode},
		{leaf.V1, []int{1 << 20}, unix.EBADF},
		{leaf.V1, []int{int(file.Fd())}, unix.ENOTDIR},
	}
	for _, tt := range tests {
		if _, err := leaf.Inherit(tt.mode, tt.fds); !errors.Is(err, tt.want) {
			t.Errorf("Inherit(%d, %v) = %v; want %v", tt.mode, tt.fds, err, tt.want)
		}
	}
}

func TestParsePids(t *testing.T) {
	tests := []struct {
		in   string
		want []int
	}{
		{"", nil},
		{"1\n", []int{1}},
		{"12\n0\n34\n", []int{12, 34}},
		{"12\n34", []int{12, 34}},
		{"\n\nx\n-5\n7\n", []int{7}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, leaf.ParsePids([]byte(tt.in))); diff != "" {
			t.Errorf("ParsePids(%q): -want +got:\n%s", tt.in, diff)
		}
	}
}

// A number that is listed at first and no longer afterwards is not killed: it
// may belong to a stranger by then.
func TestKillRoundReusedPid(t *testing.T) {
	cmd := exec.Command(testneed.Tool(t, "sleep"), "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	calls := 0
	left, err := leaf.KillRound(func() ([]int, error) {
		if calls++; calls == 1 {
			return []int{cmd.Process.Pid, os.Getpid()}, nil
		}
		return []int{os.Getpid()}, nil
	})
	if left != 2 || err != nil {
		t.Errorf("KillRound = %d, %v; want 2", left, err)
	}
	select {
	case <-done:
		t.Fatal("KillRound killed a process that the list no longer named")
	case <-time.After(50 * time.Millisecond):
	}
	// The twin: named both times, it dies.
	if _, err := leaf.KillRound(func() ([]int, error) { return []int{cmd.Process.Pid}, nil }); err != nil {
		t.Fatal(err)
	}
	<-done
}

// What init links stays small: see facts in the package documentation.
func TestImports(t *testing.T) {
	out, err := exec.Command(testneed.Tool(t, "go"), "list", "-f", `{{join .Imports "\n"}}`, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"errors", "golang.org/x/sys/unix", "strconv", "time"}
	if diff := cmp.Diff(want, strings.Fields(string(out))); diff != "" {
		t.Errorf("imports: -want +got:\n%s", diff)
	}
}

// BenchmarkLeaf is what a session's leaf costs before its fork.
func BenchmarkLeaf(b *testing.B) {
	testneed.Root(b)
	own, err := cgroup.Detect()
	if err != nil {
		b.Fatal(err)
	}
	parent := fmt.Sprintf("/carrel-leaf-bench-%d", os.Getpid())
	g, _, err := own.Create(parent, "u1000", cgroup.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := g.Remove(context.Background()); err != nil {
			b.Error(err)
		}
		for _, m := range own.V1 {
			_ = unix.Rmdir(filepath.Join(m, parent))
		}
	}()
	for _, controllers := range [][]string{nil, {"pids"}} {
		b.Run(fmt.Sprint(len(controllers)), func(b *testing.B) {
			dirs, mode, err := g.BoxDirs(controllers...)
			if err != nil {
				b.Fatal(err)
			}
			var fds []int
			for _, d := range dirs {
				defer d.Close()
				fds = append(fds, int(d.Fd()))
			}
			box, err := leaf.Inherit(mode, fds)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				done := make(chan *leaf.Leaf)
				go func() {
					runtime.LockOSThread()
					l, err := box.New("s1")
					if err == nil && mode == leaf.V1 {
						err = l.Enter()
					}
					if err != nil {
						b.Error(err)
					}
					done <- l
				}()
				l := <-done
				b.StopTimer()
				if err := remove(l); err != nil {
					b.Error(err)
				}
				l.Close()
				b.StartTimer()
			}
		})
	}
}
