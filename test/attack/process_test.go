package attack

import (
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// what a process may learn of any other of its namespace.
var harmless = []string{"prlimit", "read pagemap", "migrate_pages"}

var takeover = []string{"seize", "read mem", "write mem", "read environ", "read maps", "link root", "list fd", "process_vm_readv"}

// TestPID1 attacks carrel-init as the user and as root of the container. The
// twin is the same against a process of the user's;
// that an init whose file can be read refuses to serve is tested in sandbox.
func TestPID1(t *testing.T) {
	f := setup(t)
	f.attack(t, f.alice, "process 1").wantDenied(t, "the user", harmless...)
	f.asContainerRoot(t, f.alice, "process", "1").wantDenied(t, "the container's root", harmless...)

	f.background(t, f.alice, "echo $$ >~/pid; echo ready; exec cat", "ready")
	pid := f.in(t, f.alice, "cat ~/pid")
	f.attack(t, f.alice, "process "+pid).wantAllowed(t, "the user, against an own process", takeover...)
	f.asContainerRoot(t, f.alice, "process", pid).wantAllowed(t, "the container's root, against a process",
		append(takeover, "pidfd_getfd", "kcmp")...)
	if f.in(t, f.alice, "kill -0 "+pid+" && echo lives") != "lives" {
		t.Error("the twin's process did not survive")
	}
}

// TestSignals sends PID 1 and everything else what ends or stops a process.
func TestSignals(t *testing.T) {
	f := setup(t)
	f.empty(t)
	init := f.initOf(t, f.alice)
	for _, kill := range []string{
		"kill -KILL 1", "kill -STOP 1", "kill -TERM 1", "kill -SEGV 1", "kill -HUP 1",
		"trap '' TERM; kill -9 -1", "kill -STOP -1", "kill -9 -1 & kill -9 -1 & kill -9 -1",
	} {
		if r := f.In(f.alice, kill, nil); r.Err != nil {
			t.Errorf("%q: %v", kill, r)
		}
		if got := f.in(t, f.alice, "echo in"); got != "in" {
			t.Errorf("the login after %q: %q", kill, got)
		}
	}
	if now := f.initOf(t, f.alice); now.Pid != init.Pid {
		t.Errorf("PID 1 was %d and is %d", init.Pid, now.Pid)
	}
	// As root of the container, which may signal PID 1: what it has no handler
	// for does nothing (pid_namespaces(7)), and SIGKILL never arrives. What a
	// fault raises, such as SIGSEGV, does end it: root may end their own container.
	for _, signal := range []string{"KILL", "STOP", "TERM", "HUP", "INT", "USR1", "USR2", "PIPE", "QUIT", "TSTP",
		"TTIN", "TTOU", "ALRM", "VTALRM", "PROF", "POLL", "PWR", "XCPU", "XFSZ"} {
		if r := host.Run(f.enter(t, f.alice, "/bin/sh", "-c", "kill -"+signal+" 1")); r.Err != nil {
			t.Errorf("root inside, %s: %v", signal, r)
		}
		if got := f.in(t, f.alice, "echo in"); got != "in" {
			t.Errorf("the login after %s by root inside: %q", signal, got)
		}
	}
	// As root of the host, as a careless `kill` or a shutdown sends them.
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT} {
		if err := syscall.Kill(init.Pid, signal); err != nil {
			t.Error(err)
		}
		if got := f.in(t, f.alice, "echo in"); got != "in" {
			t.Errorf("the login after %v by root of the host: %q", signal, got)
		}
	}
	if now := f.initOf(t, f.alice); now.Pid != init.Pid {
		t.Errorf("PID 1 was %d and is %d, after signals of either root", init.Pid, now.Pid)
	}
	// The twin: what can be killed is.
	if r := f.In(f.alice, "sleep 100 & kill -9 $!; wait $!", nil); r.Code != 137 {
		t.Errorf("kill -9 of an own process: %v; want 137", r)
	}
}

// TestOrphans leaves ten thousand behind: PID 1 collects them all.
func TestOrphans(t *testing.T) {
	f := setup(t)
	const orphans = `exec sh -c 'i=0; while [ $i -lt 10000 ]; do (: &); i=$((i+1)); done'`
	if r := f.In(f.alice, orphans, nil); r.Code != 0 || r.Err != nil {
		t.Fatalf("orphans: %v", r)
	}
	const zombies = `cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '; true`
	if !eventually(func() bool { return f.in(t, f.alice, zombies) == "0" }) {
		t.Errorf("zombies left: %s", f.in(t, f.alice, zombies))
	}
	// The twin: a parent that does not wait has one.
	if got := f.in(t, f.alice, `perl -e 'if (!fork) { exit } sleep 1; print qx{cat /proc/[0-9]*/stat}' 2>/dev/null | grep -c ') Z '`); got != "1" {
		t.Errorf("zombies of a careless parent: %q; want 1", got)
	}
}

// TestUnborn attacks each child of PID 1 between its change of ids and its
// exec, while logins go on: it has the user's ids and PID 1's memory. Its file
// protects it; it can only be stopped. Bob does not notice. Alice's logins get
// a session or a failure, never nothing; one whose shell was stopped just after
// its exec waits, as for any stopped shell, until somebody continues it.
func TestUnborn(t *testing.T) {
	f := setup(t)
	for _, how := range []string{"", " ptrace", " mem"} {
		path := f.arm(t, f.alice)
		stop := f.background(t, f.alice, "echo ready; "+path+" unborn"+how, "ready")
		var logins sync.WaitGroup
		for range 12 {
			logins.Go(func() {
				if r := f.In(f.alice, "true", nil); r.Err != nil {
					t.Errorf("login under attack%s: %v", how, r)
				}
			})
			if got := f.in(t, f.bob, "echo in"); got != "in" {
				t.Errorf("bob's login meanwhile: %q", got)
			}
		}
		said := stop()
		switch none := strings.Contains(said, "reached 0 "); {
		case !strings.Contains(said, "reached "):
			t.Errorf("attack%s: %q; it did not end by itself", how, said)
		case how == "" && none: // the twin
			t.Logf("attack: %q; it came too late each time and shows little", said)
		case how != "" && !none:
			t.Errorf("attack%s: %q; want PID 1's memory out of reach", how, said)
		}
		if got := f.in(t, f.alice, "kill -CONT -1; echo in"); got != "in" {
			t.Errorf("login after it: %q", got)
		}
		logins.Wait()
	}
}

// TestUnbornStopped has the attack above succeed, each time and at the worst
// moment: the child is stopped as it is born, while its parent's memory is due
// to be collected. A runtime that waits for the forking thread then waits for
// ever, and with it every session of the user.
func TestUnbornStopped(t *testing.T) {
	f := setup(t)
	init := f.initOf(t, f.alice)
	for range 3 {
		f.in(t, f.alice, "true") // its end is when memory is collected, half a second later
		unborn := stopNextFork(t, init.Pid)
		var login host.Result
		over := make(chan struct{})
		go func() {
			defer close(over)
			login = f.In(f.alice, "echo in", nil)
		}()
		pid := <-unborn
		if pid == 0 {
			t.Fatal("PID 1 forked nothing that could be stopped")
		}
		if got := f.in(t, f.bob, "echo in"); got != "in" {
			t.Errorf("bob's login meanwhile: %q", got)
		}
		<-over
		if login.Err != nil || login.Code == 0 {
			t.Errorf("the login whose shell was stopped before its birth: %v; want a failure", login)
		}
		if got := f.in(t, f.alice, "echo in"); got != "in" {
			t.Errorf("the login after it: %q", got)
		}
	}
	if now := f.initOf(t, f.alice); now.Pid != init.Pid {
		t.Errorf("PID 1 was %d and is %d", init.Pid, now.Pid)
	}
}

// stopNextFork stops the next child of a process's first thread before it runs
// at all, and sends its pid, 0 if there was none. The tracer is one thread for
// all of its life (ptrace(2)).
func stopNextFork(t *testing.T, parent int) <-chan int {
	t.Helper()
	seized, pids := make(chan error), make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		defer close(pids)
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(parent), 0, unix.PTRACE_O_TRACEVFORK, 0, 0)
		if errno != 0 {
			seized <- errno
			return
		}
		close(seized)
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(parent, &status, unix.WALL, nil); err != nil || status.Exited() || status.Signaled() {
				return
			}
			if status.TrapCause() == unix.PTRACE_EVENT_VFORK {
				break
			}
			_ = unix.PtraceCont(parent, 0)
		}
		child, err := unix.PtraceGetEventMsg(parent)
		if err != nil {
			return
		}
		_, err = unix.Wait4(int(child), &status, unix.WALL, nil)
		if err == nil {
			err = unix.Kill(int(child), unix.SIGSTOP) // pending, until it is let go
		}
		_ = unix.PtraceDetach(int(child))
		_ = unix.PtraceDetach(parent)
		if err == nil {
			pids <- int(child)
		}
	}()
	if err := <-seized; err != nil {
		t.Fatal("ptrace of PID 1: ", err)
	}
	return pids
}

// TestFromTheHost has users of the host, the user itself among them, reach for
// processes in a container.
func TestFromTheHost(t *testing.T) {
	f := setup(t)
	f.background(t, f.alice, "echo ready; exec cat", "ready")
	inside, err := f.Inside()
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	for _, p := range inside {
		if strings.HasSuffix(p.Exe, "/cat") && p.UID != 0 {
			pid = p.Pid
		}
	}
	if pid == 0 {
		t.Fatalf("no cat among %+v", inside)
	}
	arg := strconv.Itoa(pid)
	for who, a := range map[string]*host.Account{"bob": &f.bob, "alice's uid": &f.alice} {
		f.onHost(t, a, "process", arg).wantDenied(t, who+" on the host", "prlimit", "migrate_pages", "kcmp")
		cmd := exec.Command("/bin/kill", "-0", arg)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.Credential()}
		if r := host.Run(cmd); r.Code == 0 {
			t.Errorf("%s on the host may signal a process inside", who)
		}
	}
	// The twin: root may, and alice's uid may reach what runs on the host as it.
	f.onHost(t, nil, "process", arg).wantAllowed(t, "root", "read mem", "list fd", "link root")
	own := exec.Command("/bin/sleep", "100")
	own.SysProcAttr = &syscall.SysProcAttr{Credential: f.alice.Credential()}
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Process.Kill(); _ = own.Wait() }()
	f.onHost(t, &f.alice, "process", strconv.Itoa(own.Process.Pid)).wantAllowed(t, "alice's uid on the host", takeover...)
}
