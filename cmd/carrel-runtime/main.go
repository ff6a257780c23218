// Carrel-runtime creates or deletes one container, or looks whether a home answers, and exits. carreld starts
// it with an environment built from nothing, in a mount namespace of its own;
// nobody else has a use for it. It is the only binary that links libcontainer.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	// Runs before main and turns the process into the container's first one
	// when libcontainer executes it again.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
	"golang.org/x/sys/unix"

	"github.com/carrel-sh/carrel/sandbox/runtime"
	"github.com/carrel-sh/carrel/sandbox/spec"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		runtime.Init()
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			os.Exit(spec.ExitNoSpace)
		}
		os.Exit(1)
	}
}

// run takes an order from stdin and answers on stdout. If stdin ends before the
// order does, carreld has given it up.
func run(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: carrel-runtime create|delete|probe (started by carreld)")
	}
	in := json.NewDecoder(os.Stdin)
	in.DisallowUnknownFields()
	switch args[0] {
	case "create":
		var order spec.Create
		if err := in.Decode(&order); err != nil {
			return err
		}
		placed := func() (cgroup spec.Cgroup, err error) { return cgroup, in.Decode(&cgroup) }
		files := []*os.File{os.NewFile(spec.ListenerFD, "listener"), os.NewFile(spec.BootFD, "boot")}
		created, err := runtime.Create(&order, placed, files, os.Stderr)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(created)
	case "delete":
		var order spec.Delete
		if err := in.Decode(&order); err != nil {
			return err
		}
		return runtime.Delete(&order)
	case "probe":
		var order spec.Probe
		if err := in.Decode(&order); err != nil {
			return err
		}
		return runtime.Probe(&order)
	}
	return fmt.Errorf("unknown order %q", args[0])
}
