package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/internal/idmap"
	"github.com/carrel-sh/carrel/internal/testneed"
	"github.com/carrel-sh/carrel/session"
)

func TestField(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "alice": "alice", "a:b": "a_b", "a\nroot:x:0:0::/:/bin/sh": "a_root_x_0_0__/_/bin/sh", "\x00": "_", "ä": "ä",
	} {
		if got := field(in); got != want {
			t.Errorf("field(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestPasswdLine(t *testing.T) {
	s := Spec{User: User{Name: "alice", UID: 1000, GID: 100, Shell: "/bin/bash"}, HomePath: "/home/alice"}
	if got, want := passwdLine(s), "alice:x:1000:100::/home/alice:/bin/bash"; got != want {
		t.Errorf("passwdLine = %q; want %q", got, want)
	}
	// Whatever a directory service says, it is one line of seven fields.
	s.User.Name, s.HomePath, s.User.Shell = "a\nb:c", "/h:\n", "\x00:\n"
	if got := passwdLine(s); strings.Count(got, ":") != 6 || strings.ContainsAny(got, "\n\x00") {
		t.Errorf("passwdLine of hostile values = %q", got)
	}
}

func TestGroupLines(t *testing.T) {
	u := User{Name: "alice", GID: 100, Groups: []Group{{"users", 100}, {"lab", 2000}, {"", 3000}, {"x:\ny", 4000}}}
	want := []string{"users:x:100:", "lab:x:2000:alice", "x__y:x:4000:alice"}
	if got := groupLines(u); !slices.Equal(got, want) {
		t.Errorf("groupLines = %q; want %q", got, want)
	}
}

// TestBootOfManyGroups: an account in more groups than init takes lines gets
// its container, and the first of them get names.
func TestBootOfManyGroups(t *testing.T) {
	s := Spec{User: User{Name: "alice", UID: 1000, GID: 100}, Hostname: "h", HomePath: "/home/alice"}
	for i := range 5000 {
		s.User.Groups = append(s.User.Groups, Group{Name: "group-" + strconv.Itoa(i), GID: uint32(2000 + i)})
	}
	b := &build{m: &Manager{}, s: s}
	var err error
	b.bootOut, b.bootIn, err = os.Pipe()
	try(t, err)
	defer b.close()
	try(t, b.sendBoot())
	frame, err := io.ReadAll(b.bootOut)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := session.DecodeBoot(frame)
	if err != nil {
		t.Fatalf("init refuses its orders: %v", err)
	}
	if len(boot.Groups) != maxGroupLines || boot.Groups[0] != "group-0:x:2000:alice" {
		t.Errorf("%d groups, the first %q", len(boot.Groups), boot.Groups[0])
	}
}

func TestSingle(t *testing.T) {
	maps := []idmap.Map{{Inside: 0, Outside: 1 << 20, Size: 65000}, {Inside: 70000, Outside: 1<<20 + 65010, Size: 1}}
	for id, want := range map[uint32]idmap.Map{
		0: {Inside: 0, Outside: 1 << 20, Size: 1}, 1000: {Inside: 1000, Outside: 1<<20 + 1000, Size: 1},
		64999: {Inside: 64999, Outside: 1<<20 + 64999, Size: 1}, 70000: {Inside: 70000, Outside: 1<<20 + 65010, Size: 1},
		65000: {}, 70001: {}, 1<<32 - 1: {},
	} {
		if got := single(maps, id); got != want {
			t.Errorf("single(%d) = %+v; want %+v", id, got, want)
		}
	}
}

// TestLogged: the end of the log goes into the error, on one line and bounded,
// whatever a container wrote there.
func TestLogged(t *testing.T) {
	if got := (&build{}).logged(); got != "" {
		t.Errorf("no log: %q", got)
	}
	for text, want := range map[string]string{
		"": "", " \n\n": "", "exec: no such file\n": `: "exec: no such file"`, "a\x1b[2J\xff\nb": `: "a\x1b[2J?\nb"`,
	} {
		if got := (&build{log: logOf(t, text)}).logged(); got != want {
			t.Errorf("logged of %q = %s; want %s", text, got, want)
		}
	}
	long := strings.Repeat("x", 1<<20) + "the end"
	if got := (&build{log: logOf(t, long)}).logged(); len(got) > 2100 || !strings.HasSuffix(got, `the end"`) {
		t.Errorf("logged of 1 MiB: %d bytes; want the end of it", len(got))
	}
}

func logOf(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f
}

// standIn writes a script in the place of carrel-runtime.
func standIn(t *testing.T, script string) *Manager {
	t.Helper()
	testneed.Root(t) // for its mount namespace
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "carrel-runtime"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Manager{cfg: Config{LibexecDir: dir, StartTimeout: time.Second}, log: slog.New(slog.DiscardHandler)}
}

// TestRuntimeSaysWhy: what a run without a log of its own said is in the error.
func TestRuntimeSaysWhy(t *testing.T) {
	m := standIn(t, "echo out; echo the reason >&2; exit 3")
	_, err := m.runtime(t.Context(), "delete", nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), `carrel-runtime delete: exit status 3: "the reason"`) {
		t.Errorf("runtime = %v; want the reason", err)
	}
	if out, err := standIn(t, "cat").runtime(t.Context(), "create", "order", nil, nil); string(out) != "\"order\"\n" || err != nil {
		t.Errorf("the twin: %q, %v; want its order back", out, err)
	}
}

func TestRuntimeSaysFull(t *testing.T) {
	for script, want := range map[string]bool{"exit 73": true, "exit 1": false} {
		if _, err := standIn(t, script).runtime(t.Context(), "create", nil, nil, nil); err == nil || errors.Is(err, unix.ENOSPC) != want {
			t.Errorf("%s: runtime = %v; ENOSPC is %v", script, err, want)
		}
	}
}

// TestRuntimeGetsNothing: its environment is empty, its descriptors are the
// ones that were handed over, and what it mounts the host never sees.
func TestRuntimeGetsNothing(t *testing.T) {
	t.Setenv("_LIBCONTAINER_INITPIPE", "3")
	m := standIn(t, "/usr/bin/env >&2; for fd in /proc/$$/fd/*; do printf '%s ' ${fd##*/}; done; mount -t tmpfs none /mnt")
	log := logOf(t, "")
	before, err := os.ReadFile("/proc/self/mountinfo")
	try(t, err)
	extra, err := os.Open("/dev/null")
	try(t, err)
	defer extra.Close()
	out, err := m.runtime(t.Context(), "create", nil, log, []*os.File{extra})
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range strings.Fields(string(out)) {
		// 4 is the directory that dash lists; from 10 on are its own and what
		// whoever runs the test left open.
		if n, err := strconv.Atoi(fd); err != nil || n > 4 && n < 10 && !inherited(n) {
			t.Errorf("descriptor %s", fd)
		}
	}
	text, err := os.ReadFile(log.Name())
	try(t, err)
	for line := range strings.Lines(string(text)) {
		if name, _, _ := strings.Cut(line, "="); name != "PWD" { // dash's own
			t.Errorf("variable %q", line)
		}
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	try(t, err)
	if string(before) != string(after) {
		t.Error("a mount of carrel-runtime's is in the host's mount table")
	}
}

// inherited says that this process would hand its descriptor on to a child.
func inherited(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil && flags&unix.FD_CLOEXEC == 0
}

// TestRuntimeHangs: what it forked ends with it.
func TestRuntimeHangs(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	m := standIn(t, fmt.Sprintf("sleep 1000 & echo $$ $! > %s; wait", pids))
	_, err := m.runtime(t.Context(), "create", nil, nil, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("runtime = %v; want DeadlineExceeded", err)
	}
	text, err := os.ReadFile(pids)
	try(t, err)
	for _, word := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(word)
		try(t, err)
		if !eventually(func() bool { _, err := processStart(pid); return err != nil }) {
			t.Errorf("process %d lives on", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// eventually polls ok until it is true; false after five seconds, which only a
// broken thing takes.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}
