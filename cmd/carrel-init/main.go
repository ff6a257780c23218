// Carrel-init is PID 1 of a user's container. It is started by carrel-runtime
// with inherited descriptors and nothing else; it reads no argument and no
// variable.
package main

import (
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox/cgroup/leaf"
	"github.com/carrel-sh/carrel/session"
	"github.com/carrel-sh/carrel/session/spawn"
)

// The inherited descriptors, in the order in which sandbox/runtime passes
// them. From firstBox on they are the directories of the user's cgroup.
const (
	listener = 3
	bootPipe = 4
	firstBox = 5
)

// The main goroutine stays on the process's first thread: a goroutine that
// ends with its thread locked ends the thread, and Go cannot end the first.
func init() { runtime.LockOSThread() }

func main() {
	if err := run(); err != nil {
		_, _ = os.Stderr.WriteString("carrel-init: " + err.Error() + "\n")
		os.Exit(1)
	}
}

func run() error {
	// A fork holds its processor until the child has executed something, and the
	// alarm that ends a stopped child needs another one. A number that was set is
	// not adapted later to a changed cgroup, for which the world would stop.
	runtime.GOMAXPROCS(2)
	pipe := os.NewFile(bootPipe, "boot")
	frame, err := io.ReadAll(io.LimitReader(pipe, session.MaxFrame+1))
	pipe.Close()
	if err != nil {
		return err
	}
	boot, err := session.DecodeBoot(frame)
	if err != nil {
		return err
	}
	newLeaf, err := leaves(boot)
	if err != nil {
		return err
	}
	unix.CloseOnExec(listener)
	if err := spawn.Setup(boot); err != nil {
		return err
	}
	server, err := spawn.New(listener, newLeaf)
	if err != nil {
		return err
	}
	go server.Reap()
	return server.Serve()
}

// leaves returns how the cgroup of a session is made, nil if there are none.
func leaves(boot *session.Boot) (func(string) (spawn.Leaf, error), error) {
	if boot.CgroupMode == 0 {
		return nil, nil
	}
	var fds []int
	for fd := firstBox; fd < firstBox+int(boot.Boxes); fd++ {
		fds = append(fds, fd)
	}
	box, err := leaf.Inherit(leaf.Mode(boot.CgroupMode), fds)
	if err != nil {
		return nil, err
	}
	return func(name string) (spawn.Leaf, error) {
		l, err := box.New(name)
		if err != nil {
			return nil, err
		}
		return l, nil
	}, nil
}
