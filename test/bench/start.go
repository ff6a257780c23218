package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// pause stands before each timed run: long enough for an RCU grace period, so
// that no subject profits from the cgroup lock that the one before left hot.
const pause = 40 * time.Millisecond

// A subject is one row: a program that is run and timed as a whole.
type subject struct {
	name    string
	argv    []string
	attr    *syscall.SysProcAttr
	env     []string
	prepare func() error // before each run, not timed; may be nil
	times   []time.Duration
}

// starts measures warm and cold logins.
func starts(ctx context.Context, t *table, h *host.Host, p *peers, alice host.Account, o options) error {
	carrelsh := h.Direct(alice, "-c", "true")
	if r := h.In(alice, "true", nil); r.Code != 0 {
		return fmt.Errorf("first login: %v", r)
	}
	inits, err := h.Inits()
	if err != nil || len(inits) != 1 {
		return fmt.Errorf("%d containers, %w", len(inits), err)
	}
	carrel := func(name string, prepare func() error) *subject {
		return &subject{name: name, argv: append([]string{carrelsh.Path}, carrelsh.Args[1:]...),
			attr: carrelsh.SysProcAttr, env: carrelsh.Env, prepare: prepare}
	}
	enter := []string{"nsenter", "-a", "-t", strconv.Itoa(inits[0].Pid)}
	warm := []*subject{
		{name: "`nsenter -a /bin/true`", argv: append(enter[:4:4], "/bin/true")},
		{name: "`nsenter -a bash -c true`", argv: append(enter[:4:4], "bash", "-c", "true")},
		{name: "host: `bash -c true`", argv: []string{"bash", "-c", "true"}},
		carrel("**`carrelsh -c true`**, warm", nil),
		{name: "`crun exec … bash -c true`", argv: p.crunExec()},
		{name: "`runc exec … bash -c true`", argv: p.runcExec()},
		{name: "`podman exec … bash -c true`", argv: p.podmanExec()},
	}
	if err := measure(ctx, warm, o.rounds); err != nil {
		return err
	}
	t.block("warm login", warm, 0)

	stop := func() error {
		if r := h.Carrel("stop", alice.Name); r.Code != 0 {
			return fmt.Errorf("carrel stop: %v", r)
		}
		return nil
	}
	cold := []*subject{
		{name: "`runc run`", argv: p.runcRun()},
		{name: "`crun run`", argv: p.crunRun()},
		carrel("**`carrelsh -c true`**, cold", stop),
		{name: "`podman run`", argv: p.podmanRun()},
	}
	if err := measure(ctx, cold, o.rounds); err != nil {
		return err
	}
	t.block("cold login", cold, 0)
	return nil
}

// measure fills the times of the subjects, one run of each a round, in an
// order that turns with the rounds. Debian's crun refuses a host that mounts
// cgroup2 beside v1, so all subjects run without that mount.
func measure(ctx context.Context, subjects []*subject, rounds int) error {
	return withoutHybrid(func() error { return interleave(ctx, subjects, rounds) })
}

func interleave(ctx context.Context, subjects []*subject, rounds int) error {
	for round := range rounds + 1 {
		for i := range subjects {
			if err := ctx.Err(); err != nil {
				return err
			}
			s := subjects[(i+round)%len(subjects)]
			d, err := s.run()
			if err != nil {
				return err
			}
			if round > 0 { // the first warms caches
				s.times = append(s.times, d)
			}
		}
		if round%10 == 0 {
			fmt.Fprintf(os.Stderr, "\rbench: round %d of %d ", round, rounds)
		}
	}
	fmt.Fprintln(os.Stderr)
	for _, s := range subjects {
		slices.Sort(s.times)
	}
	return nil
}

// run runs the subject once. It avoids os/exec, whose goroutines and pidfd
// would be timed as well.
func (s *subject) run() (time.Duration, error) {
	if s.prepare != nil {
		if err := s.prepare(); err != nil {
			return 0, err
		}
	}
	path, err := exec.LookPath(s.argv[0])
	if err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	env := s.env
	if env == nil {
		env = os.Environ()
	}
	attr := &syscall.ProcAttr{
		Dir: "/", Env: env, Sys: s.attr,
		Files: []uintptr{null.Fd(), null.Fd(), os.Stderr.Fd()},
	}
	time.Sleep(pause)
	begin := time.Now()
	pid, err := syscall.ForkExec(path, s.argv, attr)
	if err != nil {
		return 0, err
	}
	var status syscall.WaitStatus
	for {
		_, err = syscall.Wait4(pid, &status, 0, nil)
		if err != syscall.EINTR { //nolint:errorlint // a bare errno
			break
		}
	}
	d := time.Since(begin)
	if err != nil || status != 0 {
		return 0, fmt.Errorf("%q: status %#x, %w", s.argv, status, err)
	}
	return d, nil
}

// withoutHybrid runs f on a thread of its own that does not see a hybrid
// host's cgroup2 mount, nor do the programs that f starts itself.
func withoutHybrid(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := hideHybrid(); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// hideHybrid takes the cgroup2 mount of a hybrid host out of the view of the
// calling thread and what it starts.
func hideHybrid() error {
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified + "/cgroup.procs"); errors.Is(err, fs.ErrNotExist) {
		return nil // v1 or v2 alone
	} else if err != nil {
		return err
	}
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("umount", syscall.Unmount(unified, 0))
}
