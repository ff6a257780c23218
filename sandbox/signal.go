package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox/cgroup"
	"github.com/carrel-sh/carrel/session"
)

// ErrNoSession says that no process of such a session is there.
var ErrNoSession = errors.New("no such session")

// Signal sends sig to every process of the container but PID 1, or to those
// of one session, daemons that it left included, if id is not 0. It returns
// how many got it. A process is held by a pidfd before it is looked for once
// more in the container's cgroup, so that no stranger who got a number anew is
// hit.
func (c *Container) Signal(ctx context.Context, sig unix.Signal, id session.ID) (int, error) {
	list := c.group.Procs
	if id != 0 {
		list = func() ([]int, error) { return c.group.LeafProcs(leafName(id)) }
	}
	pids, err := list()
	if err != nil {
		return 0, err
	}
	held := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if pid == c.InitPID {
			continue
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held[pid] = fd
		}
	}
	if pids, err = list(); err != nil {
		return 0, err
	}
	n := 0
	for _, pid := range pids {
		fd, ok := held[pid]
		if ok && unix.PidfdSendSignal(fd, sig, nil, 0) == nil {
			n++
		}
	}
	if n == 0 && id != 0 {
		return 0, ErrNoSession
	}
	return n, nil
}

// leafName is the cgroup of a session, as session/spawn calls it.
func leafName(id session.ID) string { return "s" + strconv.FormatUint(uint64(id), 10) }

// A Process is one of a container, as the host sees it.
type Process struct {
	PID  int    // on the host
	Name string // what it calls itself: anything; printable
}

// Processes lists what runs in the container, PID 1 first.
func (c *Container) Processes() ([]Process, error) {
	pids, err := c.group.Procs()
	if err != nil {
		return nil, err
	}
	slices.Sort(pids)
	var list []Process
	for _, pid := range pids {
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err != nil {
			continue // it has ended
		}
		p := Process{PID: pid, Name: session.Printable(strings.TrimSuffix(string(name), "\n"), 64)}
		if pid == c.InitPID {
			list = slices.Insert(list, 0, p)
			continue
		}
		list = append(list, p)
	}
	return list, nil
}

// Events reads what the limits did to the container.
func (c *Container) Events() (cgroup.Events, error) { return c.group.Events() }

// Cgroup is the path of the container's cgroup, in every hierarchy.
func (c *Container) Cgroup() string { return c.group.Path() }

// InitCPU returns the CPU time that the threads of PID 1 have taken, 0 where
// the kernel does not tell (schedstat of proc(5), CONFIG_SCHED_INFO). It is a
// part of Usage.CPU: what PID 1 does for carreld.
func (c *Container) InitCPU() time.Duration {
	files, err := filepath.Glob(filepath.Join("/proc", strconv.Itoa(c.InitPID), "task", "*", "schedstat"))
	if err != nil {
		return 0
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		nanos, _, _ := strings.Cut(string(text), " ")
		if n, err := strconv.ParseInt(nanos, 10, 64); err == nil {
			sum += time.Duration(n)
		}
	}
	return sum
}
