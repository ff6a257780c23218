// Bench prints one table that sets Carrel beside what people use today: a
// login into a running container and into one that has to be started first,
// bytes through a session, and the memory of an idle container.
//
// All rows of a block are measured in one run, interleaved: each round runs
// every subject once, after a pause that is the same for all, because the
// kernel makes the first writer to a cgroup wait after a quiet time. A time is
// that of the whole process, from the fork to the return of wait4. What makes
// a run possible, such as stopping the container before a cold start, is not
// part of it.
//
// It needs root and an otherwise idle machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/carrel-sh/carrel/test/internal/host"
)

// options are the flags.
type options struct {
	rounds, logins, repeats int
	pipeMiB, ttyMiB         int
	users                   int
}

func init() {
	// Threads that change their namespaces end; the first one cannot, so it is
	// the main goroutine's.
	runtime.LockOSThread()
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "n", 100, "runs of each start")
	flag.IntVar(&o.logins, "logins", 1000, "logins between the two looks at memory")
	flag.IntVar(&o.repeats, "repeat", 3, "transfers of each kind")
	flag.IntVar(&o.pipeMiB, "pipe", 1024, "MiB each way through pipes")
	flag.IntVar(&o.ttyMiB, "tty", 1024, "MiB each way through a terminal")
	flag.IntVar(&o.users, "users", 20, "containers that share what they can, for their memory")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Fprintln(os.Stderr, "bench: building")
	h, err := host.New(ctx, "bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	alice, err := h.Account("a", "")
	if err != nil {
		return err
	}
	plain, err := h.Account("p", "/bin/bash")
	if err != nil {
		return err
	}
	sshd, err := h.ServeSSH()
	if err != nil {
		return err
	}
	if _, err := h.Start(host.Options{}); err != nil {
		return err
	}
	p, err := newPeers(h)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()

	var t table
	for _, block := range []func() error{
		func() error { return starts(ctx, &t, h, p, alice, o) },
		func() error { return transfers(ctx, &t, sshd, alice, plain, o) },
		func() error { return memory(ctx, &t, h, alice, o) },
	} {
		if err := errors.Join(ctx.Err(), block()); err != nil {
			return err
		}
	}
	machine, err := describe()
	if err != nil {
		return err
	}
	fmt.Printf("%s\n\n%s", machine, t.markdown())
	return nil
}
