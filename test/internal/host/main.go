package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/carrel-sh/carrel/internal/testneed"
)

// Main is a suite's TestMain: it makes the host that the tests share, has it
// furnished, runs them, and takes everything away again, also when it is
// interrupted. It returns the exit status. A process that may not make a host
// runs the tests without: each skips or fails by itself.
func Main(kind string, run func() int, furnish func(ctx context.Context, h *Host) error) int {
	if os.Getenv(testneed.Env) != "1" || os.Geteuid() != 0 {
		return run()
	}
	code := 1
	if err := within(kind, furnish, func() { code = run() }); err != nil {
		fmt.Fprintln(os.Stderr, kind, "host:", err)
		code = max(code, 1)
	}
	return code
}

func within(kind string, furnish func(context.Context, *Host) error, run func()) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	h, err := New(ctx, kind)
	if err != nil {
		return err
	}
	over := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "interrupted:", h.Close())
		os.Exit(130)
	})
	defer over() // before stop, which would set it off
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := furnish(ctx, h); err != nil {
		return err
	}
	run()
	return nil
}
